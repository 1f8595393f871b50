"""The broker of a trial run: the one that is named, else Mosquitto, else the embedded one."""

from __future__ import annotations

import os
import pwd
import random
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.ports import LOOPBACK, answers, first_free
from tools.supervisor import RunFailedError, Supervisor

#: As deploy/mosquitto/mosquitto.conf, which says why.
_MOSQUITTO = """\
user {user}
listener {port} {host}
allow_anonymous true
persistence true
persistence_location {data}/
autosave_interval 1
autosave_on_changes true
max_queued_messages 1000000
max_inflight_messages 0
set_tcp_nodelay true
log_dest stderr
log_type error
"""


@dataclass(frozen=True)
class TrialBroker:
    """How to reach the broker, and what a person calls it."""

    #: what the app's environment needs; holds the password, so it is not for showing
    settings: Mapping[str, str]
    #: for the terminal
    description: str


def start_broker(
    supervisor: Supervisor, instance: Path, environment: Mapping[str, str]
) -> TrialBroker:
    """Use the broker that MQTT_BROKER_URL names, or start one."""
    if environment.get("MQTT_BROKER_URL"):
        return TrialBroker({}, "the broker of MQTT_BROKER_URL")
    port = first_free([1883, *random.sample(range(20_000, 32_000), 50)])
    if port is None:
        raise RunFailedError("no free port for the broker")
    program = shutil.which("mosquitto", path=environment.get("PATH"))
    if program:
        start = _start_mosquitto(supervisor, Path(program), instance, port, environment)
    else:
        start = _start_embedded(supervisor, port, environment)
    supervisor.wait_until(lambda: answers(port), 20, "the broker takes connections")
    return start


def _start_mosquitto(
    supervisor: Supervisor,
    program: Path,
    instance: Path,
    port: int,
    environment: Mapping[str, str],
) -> TrialBroker:
    data = instance / "mosquitto"
    data.mkdir(mode=0o700, exist_ok=True)
    config = data / "mosquitto.conf"
    # as root it would become user `mosquitto`, who may not write here; the change of user would
    # also undo the promise that it dies with us
    user = pwd.getpwuid(os.getuid()).pw_name
    config.write_text(_MOSQUITTO.format(user=user, port=port, host=LOOPBACK, data=data))
    supervisor.start("mosquitto", [str(program), "-c", str(config)], environment)
    url = f"mqtt://{LOOPBACK}:{port}"
    return TrialBroker({"MQTT_BROKER_URL": url}, f"mosquitto at {url}")


def _start_embedded(
    supervisor: Supervisor, port: int, environment: Mapping[str, str]
) -> TrialBroker:
    url = f"mqtt://{LOOPBACK}:{port}"
    settings = {
        "MQTT_BROKER_URL": url,
        "MQTT_USERNAME": environment.get("MQTT_USERNAME") or f"vessel-{secrets.token_hex(4)}",
        "MQTT_PASSWORD": environment.get("MQTT_PASSWORD") or secrets.token_urlsafe(24),
        "MQTT_PROTOCOL": "3.1.1",  # all it speaks
    }
    supervisor.start(
        "the embedded broker",
        [sys.executable, "-m", "tools.embedded_broker", str(port)],
        {**environment, **settings},
    )
    return TrialBroker(
        settings,
        f"the embedded broker at {url}, which forgets everything when it ends "
        "(install mosquitto for one that does not)",
    )
