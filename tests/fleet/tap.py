"""What passes a broker: each publish by kind, in messages and bytes, and the broker's own counters."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Self

import orjson
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTMessage, MQTTProtocolVersion

from tests.support.lifecycle import Started
from tests.support.waiting import eventually

#: Messages that are kept for who wants to publish them again.
KEPT = 5000
_SYS = "$SYS/broker/publish/"
#: What the broker counts: PUBLISH packets that it has sent, and their bytes of payload.
_COUNTED = ("messages/sent", "bytes/sent")
_CATCHUP_TYPES = {"catchup_begin": "catchup begin", "catchup_end": "catchup end"}


@dataclass(frozen=True)
class Traffic:
    """What has passed so far, or between two moments."""

    #: Messages that clients have published, by kind, and their bytes of payload.
    messages: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    #: Rows that were published more than once with the same version.
    repeated: int = 0
    #: By the broker's own counters, what it has delivered to all but the tap: messages, and bytes of payload.
    delivered: int = 0
    delivered_bytes: int = 0

    def since(self, before: Traffic) -> Traffic:
        """What has passed since another moment."""
        return Traffic(
            self.messages - before.messages,
            self.bytes - before.bytes,
            self.repeated - before.repeated,
            self.delivered - before.delivered,
            self.delivered_bytes - before.delivered_bytes,
        )

    @property
    def published(self) -> int:
        """All messages that clients have published."""
        return self.messages.total()

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.messages.most_common())
        return f"{self.published} publishes ({kinds}), {self.delivered} delivered"


class Tap(Started):
    """Counts what is published below `root`; the broker needs `sys_interval 1`.

    :param entity_topics: the topics of the changes, under a vessel's prefix.
    """

    def __init__(self, port: int, root: str, entity_topics: frozenset[str]) -> None:
        self._port = port
        self._root = root
        self._topics = entity_topics
        self._changed = threading.Condition()
        self._messages: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._versions: set[tuple[Any, ...]] = set()
        self._repeated = 0
        self._own = self._own_bytes = 0
        self._counters: dict[str, int] = {}
        self._heard = 0.0
        #: Topic and payload of the last messages.
        self.recorded: deque[tuple[str, bytes]] = deque(maxlen=KEPT)
        self._client = Client(
            CallbackAPIVersion.VERSION2, "fleet-tap", protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.on_message = self._on_message
        self._client.on_connect = self._on_connect
        self._client.reconnect_delay_set(1, 1)
        self._subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: self._subscribed.set()

    def traffic(self) -> Traffic:
        """What has passed since the tap's connection, as far as the broker has counted it."""
        with self._changed:
            counted = self._counters
            return Traffic(
                Counter(self._messages),
                Counter(self._bytes),
                self._repeated,
                counted.get("messages/sent", 0) - self._own,
                counted.get("bytes/sent", 0) - self._own_bytes,
            )

    def settled(self) -> Traffic:
        """The same, once the broker has counted everything that has passed until now."""
        asked = time.monotonic()
        eventually(
            lambda: self._heard > asked + 1.0, 10, interval=0.1, message="the broker's counters"
        )
        return self.traffic()

    def start(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        assert self._subscribed.wait(20), "the tap is not subscribed"
        return self

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Client, *_: Any) -> None:
        with self._changed:
            self._own = self._own_bytes = 0  # a broker that was started again counts from 0
            self._counters = {}
        client.subscribe([(f"{self._root}/#", 0), *((f"{_SYS}{name}", 0) for name in _COUNTED)])

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        with self._changed:
            self._own += 1
            self._own_bytes += len(message.payload)
            if message.topic.startswith(_SYS):
                self._counters[message.topic.removeprefix(_SYS)] = int(message.payload)
                self._heard = time.monotonic()
            elif not message.retain:
                self._take(message.topic, bytes(message.payload))

    def _take(self, topic: str, payload: bytes) -> None:
        kind, document = self._kind(topic, payload)
        self._messages[kind] += 1
        self._bytes[kind] += len(payload)
        self.recorded.append((topic, payload))
        if document is not None:
            key = tuple(document.get(name) for name in ("vesselId", "entity", "version"))
            row = (*key, (document.get("data") or {}).get("id"))
            self._repeated += row in self._versions
            self._versions.add(row)

    def _kind(self, topic: str, payload: bytes) -> tuple[str, dict[str, Any] | None]:
        levels = topic.split("/")
        if levels[-1] == "catchup_requests":
            return "request", None
        if "watermarks" in levels:
            return "watermark", None
        if "system" in levels:
            return levels[levels.index("system") + 1], None
        if levels[-1] not in self._topics:
            return "other", None
        document = _object(payload)
        if document is None:
            return "other", None
        if document.get("type") == "data_change":
            return "change", document
        if document.get("type") == "catchup":
            return "catchup item", document
        return _CATCHUP_TYPES.get(str(document.get("type")), "other"), None


def json_object(payload: bytes | bytearray) -> dict[str, Any] | None:
    """The JSON object that a payload is; None if it is none, as rubbish of an attack."""
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _object(payload: bytes) -> dict[str, Any] | None:
    """A JSON object; None if it is none, or one with a row or fields that can't be compared."""
    document = json_object(payload)
    if document is None or not isinstance(document.get("data", {}), dict):
        return None
    plain = (str, int, float, type(None))
    told = (*(document.get(key) for key in ("vesselId", "entity", "version")),)
    row_id = document.get("data", {}).get("id")
    return document if all(isinstance(each, plain) for each in (*told, row_id)) else None
