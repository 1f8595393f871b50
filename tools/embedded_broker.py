"""A broker in pure Python, for trying the product out where Mosquitto is absent.

    python -m tools.embedded_broker PORT

It speaks MQTT 3.1.1, keeps everything in memory, and gives an offline queue to logged-in clients
alone; so it lets in one user, named by MQTT_USERNAME and MQTT_PASSWORD, and nobody else. No
guarantee of the product rests on it: a vessel runs Mosquitto (deploy/mosquitto).
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
    """Lets in the user of the environment, and nobody else."""

    async def authenticate(self, *, session: Session) -> bool:
        """Whether the session's user and password are the expected ones."""
        expected = (os.environ["MQTT_USERNAME"], os.environ["MQTT_PASSWORD"])
        given = (session.username or "", session.password or "")
        return all(
            hmac.compare_digest(one.encode(), other.encode())
            for one, other in zip(given, expected, strict=True)
        )


def configuration(port: int) -> dict[str, Any]:
    """What amqtt needs to know: one loopback listener, one user."""
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
    # a client that only knocks, or is refused, is an error with a traceback to amqtt
    logging.basicConfig(level=logging.CRITICAL, format="embedded broker: %(message)s")
    asyncio.run(serve(int(sys.argv[1])))
