"""A real Mosquitto on a loopback port of its own."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.broker import DEPLOY, Broker, adapted, find_program
from tests.support.certificates import Certificates
from tests.support.waiting import free_port

#: What deploy/mosquitto changes of its defaults.
OURS = (
    "autosave_interval 1",
    "autosave_on_changes true",
    "max_queued_messages 1000000",
    "max_inflight_messages 0",
    "set_tcp_nodelay true",
)

#: The ACL of deploy/mosquitto, for vessels by the name of their users and a follower `shore`.
SECURED_ACL = DEPLOY / "mosquitto" / "acl"


def _user() -> str:
    # as root it would become user `mosquitto`, who may not write into a test's directory
    return f"user {pwd.getpwuid(os.getuid()).pw_name}"


class Mosquitto(Broker):
    """A broker that can be stopped, killed and started again on the same port.

    `options` are further lines for its configuration; they come last, so that they win. With `as_shipped` it
    has no settings of ours: those of Debian's package, and its own defaults. With `deployed` it has those of
    deploy/mosquitto/mosquitto.conf alone; with `secured` those of secured.conf, which needs `certificates`
    and either `users_file`, of the plugin that has the users, or `users` instead of the plugin.
    With `users` (name to password) it lets nobody else in; `acl` is the text of an acl_file.
    With `certificates` there is a second listener with TLS (`client_certificates=True`: mutual).
    """

    NAME = "mosquitto"
    MARKER = None

    def __init__(
        self,
        directory: Path,
        *,
        options: Sequence[str] = (),
        as_shipped: bool = False,
        deployed: bool = False,
        secured: bool = False,
        users: Mapping[str, str] | None = None,
        users_file: Path | None = None,
        acl: str | None = None,
        certificates: Certificates | None = None,
        client_certificates: bool = False,
        websockets: bool = False,
        port: int | None = None,
    ) -> None:
        super().__init__(directory, port=port)
        self.certificates = certificates
        self.tls_port = free_port() if certificates else None
        self.websockets_port = free_port() if websockets else None
        ours = () if as_shipped else OURS
        self._config = self.directory / "mosquitto.conf"
        self._data = self.directory / "data"
        self._data.mkdir(exist_ok=True)
        if deployed:
            self._config.write_text("\n".join([self._deployed(), *options]) + "\n")
        elif secured:
            assert self.tls_port, "started without certificates"
            self.port = self.tls_port
            self._config.write_text(self._secured(users_file or users or {}, acl, options))
        else:
            self._write_config((*ours, *options), users, acl, client_certificates)

    def command(self) -> Sequence[str | Path]:
        return [find_program("mosquitto"), "-c", self._config]

    def listening(self) -> Sequence[int]:
        return tuple(filter(None, (self.port, self.websockets_port, self.tls_port)))

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
    def saved(self) -> Path:
        """The file of its saved state: sessions and retained messages."""
        return self._data / "mosquitto.db"

    def allow(self, acl: str) -> None:
        """Have it follow another acl_file from now on, without a restart."""
        self._write_acl(acl)
        os.kill(self.pid, signal.SIGHUP)

    def forget(self) -> None:
        """Throw its saved state away, while it is down."""
        assert not self.running
        self.saved.unlink(missing_ok=True)

    def _write_config(
        self,
        options: Sequence[str],
        users: Mapping[str, str] | None,
        acl: str | None,
        client_certificates: bool,
    ) -> None:
        lines = [
            _user(),
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
            lines.append(f"acl_file {self._write_acl(acl)}")
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

    def _deployed(self) -> str:
        changed = {
            "\nlistener 1883\n": f"\nlistener {self.port} 127.0.0.1\n",
            "/var/lib/mosquitto/": f"{self._data}/",
            "log_dest syslog": "log_dest stderr",
        }
        return f"{_user()}\n{adapted(DEPLOY / 'mosquitto' / 'mosquitto.conf', changed)}"

    def _secured(
        self, users: Mapping[str, str] | Path, acl: str | None, options: Sequence[str]
    ) -> str:
        assert self.certificates, "started without certificates"
        etc = "/etc/mosquitto"
        changed = {
            "\nlistener 8883\n": f"\nlistener {self.tls_port} 127.0.0.1\n",
            **self._secured_users(users),
            f"\nacl_file {etc}/acl": f"\nacl_file {self._write_acl(acl or SECURED_ACL.read_text())}",
            f"{etc}/certs/ca.pem": str(self.certificates.ca),
            f"{etc}/certs/server.pem": str(self.certificates.server_cert),
            f"{etc}/certs/server.key": str(self.certificates.server_key),
            "persistence_location /var/lib/mosquitto/": f"persistence_location {self._data}/",
            "log_dest syslog": "log_dest stderr",
        }
        text = adapted(DEPLOY / "mosquitto" / "secured.conf", changed)
        return "\n".join([_user(), text, *options]) + "\n"

    def _secured_users(self, users: Mapping[str, str] | Path) -> dict[str, str]:
        """What changes in secured.conf for a plugin's file, or for users without the plugin."""
        plugin = "/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so"
        if isinstance(users, Path):
            (found,) = Path("/usr/lib").glob("*/mosquitto_dynamic_security.so")
            return {plugin: str(found), "/var/lib/mosquitto/users.json": str(users)}
        passwords = self._write_passwords(users)
        return {
            f"\nplugin {plugin}\n": "\n",
            "\nplugin_opt_config_file /var/lib/mosquitto/users.json\n": "\n",
            "\n# password_file /etc/mosquitto/passwords\n": f"\npassword_file {passwords}\n",
        }

    def _write_acl(self, acl: str) -> Path:
        path = self.directory / "acl"
        path.write_text(acl)
        path.chmod(0o600)
        return path

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
