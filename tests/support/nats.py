"""A real NATS server with JetStream and MQTT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.support.broker import DEPLOY, Broker, adapted, find_program
from tests.support.waiting import free_port

#: The least that lets MQTT clients in: Debian's file opens NATS' own port alone.
AS_SHIPPED = """\
server_name: test
listen: 127.0.0.1:{nats}
jetstream {{ store_dir: "{data}" }}
mqtt {{ listen: "127.0.0.1:{mqtt}" }}
"""


class Nats(Broker):
    """NATS; `as_shipped`: with its defaults, else with the file of deploy/nats."""

    NAME = "nats-server"

    def __init__(
        self, directory: Path, *, as_shipped: bool = False, port: int | None = None
    ) -> None:
        super().__init__(directory, port=port)
        self._config = self.directory / "nats-server.conf"
        data, own_port = self.directory / "data", free_port()
        if as_shipped:
            config = AS_SHIPPED.format(nats=own_port, data=data, mqtt=self.port)
        else:
            changed = {
                "listen: 127.0.0.1:4222": f"listen: 127.0.0.1:{own_port}",
                "store_dir: /var/lib/nats": f'store_dir: "{data}"',
                "listen: 0.0.0.0:1883": f"listen: 127.0.0.1:{self.port}",
            }
            config = adapted(DEPLOY / "nats" / "nats-server.conf", changed)
        self._config.write_text(config)

    def command(self) -> Sequence[str | Path]:
        return [find_program("nats-server"), "-c", self._config]
