"""What all brokers of the tests have in common: a process on a loopback port that can be stopped, killed, restarted."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.support import selection
from tests.support.lifecycle import Started
from tests.support.waiting import eventually, free_port
from tools.ports import answers
from tools.processes import Child

ROOT = Path(__file__).resolve().parents[2]
#: Configurations for users, which the tests start.
DEPLOY = ROOT / "deploy"


def find_program(name: str, *places: str) -> str:
    """The path of an installed program; a failure that says what to install otherwise."""
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", *places])
    found = shutil.which(name, path=search)
    if found is None:
        raise AssertionError(f"{name} is not installed: run tools/install_test_servers")
    return found


def adapted(file: Path, replacements: Mapping[str, str]) -> str:
    """The text of a configuration file with other ports and paths; each of the old ones is there once."""
    text = file.read_text()
    for old, new in replacements.items():
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {file}"
        text = text.replace(old, new)
    return text


class Broker(Started):
    """A broker that can be stopped, killed and started again on the same port, with the same data.

    All its files are in `directory`; it ends with the process that started it.
    """

    #: How it is called in messages.
    NAME = "broker"
    #: The marker of the tests that may start it; None: any test may.
    MARKER: str | None = "brokers"
    #: Seconds that its start takes at most; `PATIENCE` multiplies them.
    STARTS_WITHIN = 10.0

    def __init__(self, directory: Path, *, port: int | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory.resolve()
        self.port = port or free_port()
        self.log_path = self.directory / f"{self.NAME}.log"
        self._child: Child | None = None

    def command(self) -> Sequence[str | Path]:
        """The command that runs it in the foreground, as one process."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Its environment."""
        return os.environ

    @property
    def credentials(self) -> tuple[str, str] | None:
        """The user name and password of a client; None where the broker lets anyone in."""
        return None

    @property
    def login(self) -> tuple[str, ...]:
        """The credentials, for mosquitto_sub and mosquitto_pub."""
        if self.credentials is None:
            return ()
        user, password = self.credentials
        return "-u", user, "-P", password

    @property
    def url(self) -> str:
        """What MQTT_BROKER_URL takes."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        """What an application needs to reach it."""
        found = {"MQTT_BROKER_URL": self.url}
        if self.credentials:
            found["MQTT_USERNAME"], found["MQTT_PASSWORD"] = self.credentials
        return found

    @property
    def log(self) -> str:
        """All it has said so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._child is not None and self._child.returncode() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._child is not None
        return self._child.pid

    def start(self) -> Self:
        """Start it and wait until it takes connections."""
        assert not self.running, "it runs already"
        if self.MARKER:
            selection.starts(self.MARKER)
        with self.log_path.open("ab") as log:
            self._child = Child(
                self.NAME,
                self.command(),
                env=self.environment(),
                cwd=self.directory,
                output=log,
            )
        try:
            eventually(self._accepts, self.STARTS_WITHIN, message=f"{self.NAME} takes connections")
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End it as an operator would."""
        if self._child is not None:
            self._child.stop(20)
            self._child = None

    def kill(self) -> None:
        """SIGKILL it: what it has not saved is gone."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def close(self) -> None:
        self.kill()

    def publish(self, topic: str, payload: str | bytes, *args: str) -> None:
        """Publish one message, by mosquitto_pub."""
        address = ["-h", "127.0.0.1", "-p", str(self.port)]
        subprocess.run(
            [find_program("mosquitto_pub"), *address, *self.login, "-t", topic, "-s", *args],
            input=payload if isinstance(payload, bytes) else payload.encode(),
            check=True,
            timeout=20,
        )

    def clear(self, topic: str) -> None:
        """Delete the message that it has retained."""
        address = ["-h", "127.0.0.1", "-p", str(self.port)]
        subprocess.run(
            [find_program("mosquitto_pub"), *address, *self.login, "-t", topic, "-r", "-n"],
            check=True,
            timeout=20,
        )

    def listening(self) -> Sequence[int]:
        """The ports that it listens on once it has started."""
        return (self.port,)

    def _accepts(self) -> bool:
        assert self._child is not None
        if self._child.returncode() is not None:
            raise RuntimeError(f"{self.NAME} ended at its start:\n{self.log[-4000:]}")
        # it opens one listener after the other
        return all(map(answers, self.listening()))
