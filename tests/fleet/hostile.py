"""A publisher that may publish and read everything at the broker, and means harm."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self
from uuid import uuid4

from paho.mqtt.client import CallbackAPIVersion, Client, MQTTMessage, MQTTProtocolVersion

from arus.protocol.times import iso, now_ms
from tests.fleet.fleet import Fleet
from tests.fleet.shore import NAME
from tests.fleet.tap import json_object
from tests.support.follower import ScriptedVessel
from tests.support.lifecycle import Started
from tests.support.ship_model import DEFAULTS, ENTITIES
from tests.support.waiting import eventually

#: The largest number that a message may carry, and some that no message may.
MOST = 2**53 - 1
IMPOSSIBLE = (
    MOST,
    MOST + 1,
    2**63 - 1,
    2**63,
    2**64,
    2**200,
    0,
    -1,
    -(2**63),
    1.5,
    "7",
    None,
    True,
)
#: Rows of vessels that are none, as the oracle knows them.
PIRATE = "pirate-"
#: Messages that may be under way at a time: as many as the broker as shipped accepts from one client.
_UNDER_WAY = 500
#: Seconds for which the states of the vessels are remembered.
_STATES_LAST = 0.2


class Hostile(Started):
    """Knows what passed the broker so far, and publishes what it likes.

    :param seed: of everything that is chosen at random.
    :param sentinels: rows of honest vessels that nobody writes: their content by vessel and id.
    """

    def __init__(self, fleet: Fleet, seed: int, sentinels: Mapping[str, Mapping[str, Any]]) -> None:
        self.fleet = fleet
        self.random = random.Random(seed)
        self.sentinels = sentinels
        self.pirates: list[ScriptedVessel] = []
        #: How many messages it has published, and how many of them are requests and items of catch-ups.
        self.published = self.requests = self.items = 0
        self._lock = threading.Lock()
        self._states: dict[str, Any] = {}
        self._states_at = 0.0
        self._on_request: Callable[[dict[str, Any]], None] | None = None
        self._client = Client(
            CallbackAPIVersion.VERSION2, "hostile", protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.max_inflight_messages_set(20)
        self._client.on_message = self._on_message
        self._client.on_connect = lambda client, *_: client.subscribe(
            f"{fleet.prefix.split('/')[0]}/#", 1
        )
        self._last: Any = None

    def start(self) -> Self:
        self._client.connect("127.0.0.1", self.fleet.broker.port)
        self._client.loop_start()
        eventually(self._client.is_connected, message="the hostile publisher is connected")
        return self

    def close(self) -> None:
        for pirate in self.pirates:
            pirate.close()
        self._client.disconnect()
        self._client.loop_stop()

    # -- what it knows --------------------------------------------------------------------------------

    def victim(self) -> str:
        """An honest vessel."""
        return self.random.choice(sorted(self.sentinels))

    def state(self, vessel_id: str) -> dict[str, Any]:
        """An honest vessel's epoch and head."""
        with self._lock:
            if time.monotonic() - self._states_at > _STATES_LAST:
                self._states, self._states_at = self.fleet.states(), time.monotonic()
            state: dict[str, Any] = self._states[vessel_id]
        return state

    def rows_of(self, vessel_id: str) -> list[dict[str, Any]]:
        """The sentinels of a vessel."""
        return list(self.sentinels[vessel_id].values())

    def recorded(self) -> list[tuple[str, bytes]]:
        """What the tap has heard; some of it is our own."""
        return list(self.fleet.tap.recorded)

    # -- what it makes --------------------------------------------------------------------------------

    def new_id(self) -> str:
        """The id of a row that no honest vessel has."""
        return f"{PIRATE}{uuid4().hex[:20]}"

    def row(self, topic: str = "equipment", **fields: Any) -> dict[str, Any]:
        """A row that the copy accepts."""
        at = iso(now_ms())
        made = {**DEFAULTS[topic], "createdAt": at, "updatedAt": at, "version": 1}
        return {**made, "id": self.new_id(), **fields}

    def change(self, vessel_id: str, row: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """A change of a row of `equipment`, as that vessel would publish it."""
        state = self.known_state(vessel_id)
        return {
            "type": "data_change", "entity": "equipment", "operation": "update", "data": dict(row),
            "timestamp": iso(now_ms()), "messageId": f"{now_ms()}_{uuid4().hex[:9]}",
            "vesselId": vessel_id, "epoch": state["epoch"], "seq": state["seq"] + 1,
            "previousSeq": state["seq"], "version": row.get("version") or 1, **fields,
        }  # fmt: skip

    def known_state(self, vessel_id: str) -> dict[str, Any]:
        """Its epoch and head; for a vessel that is none, an epoch of its own."""
        if vessel_id in self.sentinels:
            return self.state(vessel_id)
        return {"epoch": str(uuid4()), "seq": 0}

    def status(self, vessel_id: str, **fields: Any) -> dict[str, Any]:
        """A status as that vessel would publish it."""
        state = self.known_state(vessel_id)
        return {
            "status": "online", "vesselId": vessel_id, "timestamp": iso(now_ms()), "generation": 1,
            "epoch": state["epoch"], "seq": state["seq"], "topics": {}, "pending": 0, **fields,
        }  # fmt: skip

    def catchup(
        self, vessel_id: str, rows: Iterable[Mapping[str, Any]], **fields: Any
    ) -> list[dict[str, Any]]:
        """A whole catch-up of `equipment`, with a digest that fits."""
        from arus.protocol.catchups import chained, link_of

        items = [dict(row) for row in rows]
        state = self.known_state(vessel_id)
        common = {
            "catchupId": str(uuid4()), "requestId": None, "vesselId": vessel_id,
            "entity": "equipment", "epoch": state["epoch"], "mode": "snapshot",
            "highSeq": state["seq"], "total": len(items), "timestamp": iso(now_ms()), **fields,
        }  # fmt: skip
        operation = common.pop("operation", "update")
        snapshot = common["mode"] == "snapshot"
        begin = {
            **common, "type": "catchup_begin", "complete": snapshot, "buckets": None,
            "sinceSeq": None if snapshot else 0, "consumer": common.pop("consumer", None),
        }  # fmt: skip
        digest = ""
        messages = []
        for sequence, row in enumerate(items):
            version = row["version"] + (operation == "delete")
            digest = chained(digest, link_of("equipment", row["id"], version, operation))
            item = self.change(vessel_id, row, operation=operation, version=version)
            place = {"catchupId": common["catchupId"], "sequence": sequence, "total": len(items)}
            item |= {"epoch": common["epoch"], "seq": common["highSeq"] or 1, "previousSeq": 0}
            messages.append({**item, "type": "catchup", **place})
        return [begin, *messages, {**common, "type": "catchup_end", "digest": digest, "next": None}]

    # -- what it does ---------------------------------------------------------------------------------

    def publish(
        self, vessel_id: str, topic: str, document: Any, *, retain: bool = False, qos: int = 1
    ) -> None:
        """Publish under a vessel's prefix: a document, or bytes."""
        self.publish_raw(f"{self.fleet.prefix_of(vessel_id)}/{topic}", document, retain, qos)

    def publish_raw(self, topic: str, document: Any, retain: bool = False, qos: int = 1) -> None:
        """Publish on any topic."""
        payload = document if isinstance(document, bytes) else json.dumps(document).encode()
        with self._lock:
            self._last = self._client.publish(topic, payload, qos=qos, retain=retain)
            self.published += 1
            self.requests += topic.endswith("/catchup_requests")
            self.items += b'"type": "catchup",' in payload
            waits = self.published % _UNDER_WAY == 0
        if waits:
            self.flush()

    def flush(self) -> None:
        """Return once the broker has acknowledged everything."""
        if self._last is not None:
            self._last.wait_for_publish(60)

    def play(self, vessel_id: str, topic: str, messages: Iterable[Any]) -> None:
        """Publish messages on one topic, in order."""
        for message in messages:
            self.publish(vessel_id, topic, message)

    def pirate(self, name: str | None = None) -> ScriptedVessel:
        """A vessel that is none: it answers what it is asked."""
        vessel_id = name or f"{PIRATE}{uuid4().hex[:8]}"
        pirate = ScriptedVessel(
            self.fleet.broker.port, vessel_id, self.fleet.prefix_of(vessel_id)
        ).start()
        self.pirates.append(pirate)
        pirate.status()
        return pirate

    def answer_requests(self, answer: Callable[[dict[str, Any]], None] | None) -> None:
        """Have each request of the follower answered, before or after its vessel does."""
        self._on_request = answer

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        answer = self._on_request
        if answer is None or not message.topic.endswith("/catchup_requests"):
            return
        document = json_object(message.payload)
        if document is not None and document.get("consumer") == NAME:
            answer(document)

    def wait(self, seconds: float) -> None:
        """Let the fleet work for a while: an attack takes its time."""
        self.flush()
        threading.Event().wait(seconds)


def all_topics() -> list[str]:
    """Each topic that a follower or a vessel subscribes to, under a vessel's prefix."""
    return [
        *ENTITIES,
        *(f"catchup/{topic}" for topic in ENTITIES),
        "system/status",
        "system/digest",
        "conflicts",
        "catchup_requests",
        f"watermarks/{NAME}",
        *(f"proposals/{topic}" for topic in ENTITIES),
    ]
