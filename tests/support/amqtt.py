"""amqtt, as `make run` starts it where no Mosquitto is installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.broker import ROOT, Broker


class Amqtt(Broker):
    """The embedded broker; it keeps everything in memory, and accepts one user."""

    NAME = "amqtt"

    @property
    def credentials(self) -> tuple[str, str]:
        return "vessel", "for-tests-only-and-long-enough"

    def command(self) -> Sequence[str | Path]:
        return [sys.executable, "-m", "tools.embedded_broker", str(self.port)]

    def environment(self) -> Mapping[str, str]:
        user, password = self.credentials
        login = {"MQTT_USERNAME": user, "MQTT_PASSWORD": password}
        return {**os.environ, **login, "PYTHONPATH": str(ROOT)}
