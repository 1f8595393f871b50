"""A real ejabberd with nothing but its MQTT module."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.broker import Broker, find_program

#: What Debian's file says of MQTT, without the services for other protocols.
CONFIG = """\
hosts: [localhost]
loglevel: info
auth_password_format: scram
listen:
  -
    port: {port}
    ip: "127.0.0.1"
    module: mod_mqtt
    backlog: 1000
modules:
  mod_mqtt: {{}}
"""
USER, HOST, PASSWORD = "vessel", "localhost", "for-tests-only-and-long-enough"
#: It lets in nobody without an account, which has to be made while it runs.
ACCOUNT = f'ejabberd_auth:try_register(<<"{USER}">>, <<"{HOST}">>, <<"{PASSWORD}">>).'


def _libraries() -> Path:
    # in a folder that is named after the machine's architecture
    found = next(Path("/usr/lib").glob("*/ejabberd-*"), None)
    assert found, "ejabberd is not installed: run tools/install_test_servers"
    return found.parent


class Ejabberd(Broker):
    """ejabberd as Debian ships it: the settings of its MQTT module are the defaults.

    Its own start script accepts only the system's user `ejabberd`; what it would run is run here, without
    Erlang's distribution, which only `ejabberdctl` needs.
    """

    NAME = "ejabberd"

    def __init__(self, directory: Path, *, port: int | None = None) -> None:
        super().__init__(directory, port=port)
        (self.directory / "ejabberd.yml").write_text(CONFIG.format(port=self.port))
        self._spool = self.directory / "spool"
        self._spool.mkdir(exist_ok=True)

    @property
    def credentials(self) -> tuple[str, str]:
        return f"{USER}@{HOST}", PASSWORD

    def command(self) -> Sequence[str | Path]:
        data = ["-mnesia", "dir", f'"{self._spool}"']
        return [find_program("erl"), "-noinput", *data, "-s", "ejabberd", "-eval", ACCOUNT]

    def environment(self) -> Mapping[str, str]:
        return {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.directory),
            "ERL_LIBS": str(_libraries()),
            "ERL_CRASH_DUMP_BYTES": "0",
            "EJABBERD_CONFIG_PATH": str(self.directory / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(self.directory / "ejabberd.log"),
        }
