"""A subscriber that records the arrival time of each message by the monotonic clock."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Self

import orjson
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTMessage, MQTTProtocolVersion

from tests.support.lifecycle import Started

Arrival = tuple[float, str, dict[str, Any]]


class Listener(Started):
    """Collects the messages below a prefix."""

    def __init__(self, port: int, prefix: str = "vessel/sync") -> None:
        self._changed = threading.Condition()
        #: Time, topic below the prefix, payload.
        self._arrivals: list[Arrival] = []
        self._prefix = prefix
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"listener-{uuid.uuid4().hex}",
            protocol=MQTTProtocolVersion.MQTTv5,
        )
        self._client.on_message = self._on_message
        self._port = port

    @property
    def arrivals(self) -> list[Arrival]:
        """Return all arrivals so far, in order."""
        with self._changed:
            return list(self._arrivals)

    def wait(self, found: Callable[[list[Arrival]], Any], timeout: float = 60) -> Any:
        """Wait until `found(arrivals)` is true, and return its result."""
        with self._changed:
            if not self._changed.wait_for(lambda: found(self._arrivals), timeout):
                raise TimeoutError(f"{len(self._arrivals)} messages have come in {timeout} s")
            return found(self._arrivals)

    def wait_for(self, message_ids: set[str], timeout: float = 60) -> dict[str, float]:
        """Wait until all of these messages have arrived; return the time of each first arrival."""

        def times(arrivals: list[Arrival]) -> dict[str, float] | None:
            come: dict[str, float] = {}
            for at, _, body in arrivals:
                message_id = body.get("messageId")
                if message_id in message_ids:
                    come.setdefault(message_id, at)
            return come if len(come) == len(message_ids) else None

        result: dict[str, float] = self.wait(times, timeout)
        return result

    def clear(self) -> None:
        """Discard the arrivals so far."""
        with self._changed:
            self._arrivals.clear()

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        now = time.monotonic()
        topic = message.topic.removeprefix(f"{self._prefix}/")
        with self._changed:
            self._arrivals.append((now, topic, orjson.loads(message.payload)))
            self._changed.notify_all()

    def start(self) -> Self:
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        self._client.subscribe(f"{self._prefix}/#", 1)
        if not subscribed.wait(20):
            raise TimeoutError("not subscribed")
        return self

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
