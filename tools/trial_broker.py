"""The broker of a trial run: the configured one, else Mosquitto, else the embedded one."""

from __future__ import annotations

import os
import pwd
import random
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.ports import LOOPBACK, first_free, listens
from tools.processes import Child
from tools.supervisor import RunFailedError, Supervisor

#: As in deploy/mosquitto/mosquitto.conf; its README explains the settings.
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


#: Ports that are tried.
_ATTEMPTS = 5
#: Starts the broker.
Launch = Callable[[], Child]


@dataclass
class TrialBroker:
    """How to reach the broker, its description for people, and its process if it was started here."""

    #: environment variables for the app; they contain the password, so they must not be shown
    settings: Mapping[str, str]
    #: for the terminal
    description: str
    supervisor: Supervisor
    #: None for a broker that was there
    launch: Launch | None = None
    child: Child | None = None

    @property
    def runs(self) -> bool:
        """Whether its process runs."""
        return self.child is not None and self.child.returncode() is None

    def start(self) -> None:
        """Start it, and go on if it ends."""
        if self.launch is not None:
            self.child = self.launch()
            self.supervisor.spare(self.child)

    def stop(self) -> None:
        """Stop it."""
        if self.child is not None:
            self.supervisor.stop(self.child)


def start_broker(
    supervisor: Supervisor, instance: Path, environment: Mapping[str, str]
) -> TrialBroker:
    """Use the broker of MQTT_BROKER_URL, or start one."""
    if environment.get("MQTT_BROKER_URL"):
        return TrialBroker({}, "the broker of MQTT_BROKER_URL", supervisor)
    program = shutil.which("mosquitto", path=environment.get("PATH"))
    for _attempt in range(_ATTEMPTS):
        port = first_free([1883, *random.sample(range(20_000, 32_000), 50)])
        if port is None:
            break
        if program:
            broker = _mosquitto(supervisor, Path(program), instance, port, environment)
        else:
            broker = _embedded(supervisor, port, environment)
        if listening(supervisor, broker, port):
            return broker
    raise RunFailedError("no free port for the broker")


def listening(supervisor: Supervisor, broker: TrialBroker, port: int) -> bool:
    """Start a broker; return whether it has got its port: another process may take it in the meantime."""
    broker.start()
    child = broker.child
    assert child is not None
    supervisor.wait_until(
        lambda: not broker.runs or listens(child.pid, port), 20, "the broker accepts connections"
    )
    return broker.runs


def _mosquitto(
    supervisor: Supervisor,
    program: Path,
    instance: Path,
    port: int,
    environment: Mapping[str, str],
) -> TrialBroker:
    data = instance / "mosquitto"
    data.mkdir(mode=0o700, exist_ok=True)
    config = data / "mosquitto.conf"
    # as root, mosquitto would change to the user `mosquitto`, who has no write access here; and the change
    # of user would clear the setting that it dies with this process
    user = pwd.getpwuid(os.getuid()).pw_name
    config.write_text(_MOSQUITTO.format(user=user, port=port, host=LOOPBACK, data=data))
    argv = [str(program), "-c", str(config)]
    url = f"mqtt://{LOOPBACK}:{port}"
    return TrialBroker(
        {"MQTT_BROKER_URL": url},
        f"mosquitto at {url}",
        supervisor,
        lambda: supervisor.start("mosquitto", argv, environment),
    )


def _embedded(supervisor: Supervisor, port: int, environment: Mapping[str, str]) -> TrialBroker:
    url = f"mqtt://{LOOPBACK}:{port}"
    settings = {
        "MQTT_BROKER_URL": url,
        "MQTT_USERNAME": environment.get("MQTT_USERNAME") or f"vessel-{secrets.token_hex(4)}",
        "MQTT_PASSWORD": environment.get("MQTT_PASSWORD") or secrets.token_urlsafe(24),
        "MQTT_PROTOCOL": "3.1.1",  # the only version it supports
    }
    argv = [sys.executable, "-m", "tools.embedded_broker", str(port)]
    return TrialBroker(
        settings,
        f"the embedded broker at {url}, which forgets everything when it ends "
        "(install mosquitto for one that does not)",
        supervisor,
        lambda: supervisor.start("the embedded broker", argv, {**environment, **settings}),
    )
