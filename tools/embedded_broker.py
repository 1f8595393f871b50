"""A broker in pure Python, for trials without Mosquitto.

    python -m tools.embedded_broker PORT

It supports MQTT 3.1.1, keeps everything in memory, and has an offline queue only for authenticated
clients; so it accepts a single user, given by MQTT_USERNAME and MQTT_PASSWORD. The guarantees of Arus do
not hold with it: a vessel runs Mosquitto (deploy/mosquitto).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import signal
import sys
from typing import Any

from amqtt.broker import Broker
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

HOST = "127.0.0.1"


class OneUser(BaseAuthPlugin):
    """Accepts only the user given in the environment."""

    async def authenticate(self, *, session: Session) -> bool:
        """Return whether the session's user and password are the expected ones."""
        expected = (os.environ["MQTT_USERNAME"], os.environ["MQTT_PASSWORD"])
        given = (session.username or "", session.password or "")
        return all(
            hmac.compare_digest(one.encode(), other.encode())
            for one, other in zip(given, expected, strict=True)
        )


def configuration(port: int) -> dict[str, Any]:
    """Return amqtt's configuration: one loopback listener, one user."""
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}},
        "plugins": {f"{__spec__.name}.{OneUser.__name__}": {}},
    }


async def serve(port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, ended.set)
    broker = Broker(configuration(port))
    await broker.start()
    await ended.wait()
    await broker.shutdown()


if __name__ == "__main__":
    # amqtt logs a traceback when a client only opens a connection, or is refused
    logging.basicConfig(level=logging.CRITICAL, format="embedded broker: %(message)s")
    asyncio.run(serve(int(sys.argv[1])))
