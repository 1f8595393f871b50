"""A real Mosquitto on a loopback port of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.support.certificates import Certificates
from tests.support.lifecycle import Started
from tests.support.waiting import eventually, free_port
from tools.ports import answers
from tools.processes import Child

#: What deploy/mosquitto changes of its defaults.
OURS = (
    "autosave_interval 1",
    "autosave_on_changes true",
    "max_queued_messages 1000000",
    "max_inflight_messages 0",
    "set_tcp_nodelay true",
)


def find_program(name: str, *places: str) -> str:
    """The path of an installed program; a failure that says what to install otherwise."""
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", *places])
    found = shutil.which(name, path=search)
    if found is None:
        raise AssertionError(f"{name} is not installed: run tools/install_test_servers")
    return found


class Mosquitto(Started):
    """A broker that can be stopped, killed and started again on the same port.

    `options` are further lines for its configuration; they come last, so that they win. With `as_shipped` it
    has no settings of ours: those of Debian's package, and its own defaults.
    With `users` (name to password) it lets nobody else in; `acl` is the text of an acl_file.
    With `certificates` there is a second listener with TLS (`client_certificates=True`: mutual).
    """

    def __init__(
        self,
        directory: Path,
        *,
        options: Sequence[str] = (),
        as_shipped: bool = False,
        users: Mapping[str, str] | None = None,
        acl: str | None = None,
        certificates: Certificates | None = None,
        client_certificates: bool = False,
        websockets: bool = False,
        port: int | None = None,
    ) -> None:
        self.directory = directory
        self.port = port or free_port()
        self.certificates = certificates
        self.tls_port = free_port() if certificates else None
        self.websockets_port = free_port() if websockets else None
        self.log_path = directory / "mosquitto.log"
        self._child: Child | None = None
        ours = () if as_shipped else OURS
        self._write_config((*ours, *options), users, acl, client_certificates)

    @property
    def url(self) -> str:
        """What MQTT_BROKER_URL takes."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        """The same, for the listener with TLS."""
        assert self.tls_port, "started without certificates"
        return f"mqtts://localhost:{self.tls_port}"

    @property
    def websockets_url(self) -> str:
        """The same, for the WebSockets listener."""
        assert self.websockets_port, "started without websockets"
        return f"ws://127.0.0.1:{self.websockets_port}"

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
        with self.log_path.open("ab") as log:
            self._child = Child(
                "mosquitto", [find_program("mosquitto"), "-c", self._config], output=log
            )
        try:
            eventually(self._accepts, 10, message="mosquitto takes connections")
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End it as an operator would; it saves its state."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def kill(self) -> None:
        """SIGKILL it: what it has not saved is gone."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def forget(self) -> None:
        """Throw its saved state away, while it is down."""
        assert not self.running
        (self._data / "mosquitto.db").unlink(missing_ok=True)

    def publish(self, topic: str, payload: str | bytes, *args: str) -> None:
        """Publish one message, by mosquitto_pub."""
        address = ["-h", "127.0.0.1", "-p", str(self.port)]
        subprocess.run(
            [find_program("mosquitto_pub"), *address, "-t", topic, "-s", *args],
            input=payload if isinstance(payload, bytes) else payload.encode(),
            check=True,
            timeout=20,
        )

    def close(self) -> None:
        self.kill()

    def _accepts(self) -> bool:
        assert self._child is not None
        if self._child.returncode() is not None:
            raise RuntimeError(f"mosquitto ended at its start:\n{self.log}")
        # it opens one listener after the other
        return all(map(answers, filter(None, (self.port, self.websockets_port, self.tls_port))))

    def _write_config(
        self,
        options: Sequence[str],
        users: Mapping[str, str] | None,
        acl: str | None,
        client_certificates: bool,
    ) -> None:
        self._config = self.directory / "mosquitto.conf"
        self._data = self.directory / "data"
        self._data.mkdir(parents=True, exist_ok=True)
        lines = [
            # as root it would become user `mosquitto`, who may not write here
            f"user {pwd.getpwuid(os.getuid()).pw_name}",
            "log_dest stderr",
            "log_type all",
            "log_timestamp_format %Y-%m-%dT%H:%M:%S",
            "persistence true",
            f"persistence_location {self._data}/",
            f"allow_anonymous {'false' if users else 'true'}",
        ]
        if users:
            lines.append(f"password_file {self._write_passwords(users)}")
        if acl is not None:
            acl_file = self.directory / "acl"
            acl_file.write_text(acl)
            acl_file.chmod(0o600)
            lines.append(f"acl_file {acl_file}")
        lines.append(f"listener {self.port} 127.0.0.1")
        if self.websockets_port:
            lines += [f"listener {self.websockets_port} 127.0.0.1", "protocol websockets"]
        if self.certificates:
            lines += [
                f"listener {self.tls_port} 127.0.0.1",
                f"cafile {self.certificates.ca}",
                f"certfile {self.certificates.server_cert}",
                f"keyfile {self.certificates.server_key}",
                f"require_certificate {'true' if client_certificates else 'false'}",
            ]
        self._config.write_text("\n".join([*lines, *options]) + "\n")

    def _write_passwords(self, users: Mapping[str, str]) -> Path:
        path = self.directory / "passwords"
        path.unlink(missing_ok=True)
        path.touch(0o600)
        for name, password in users.items():
            subprocess.run(
                [find_program("mosquitto_passwd"), "-b", path, name, password],
                check=True,
                capture_output=True,
                timeout=20,
            )
        return path
