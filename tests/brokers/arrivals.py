"""Subscribers ashore, of MQTT 3.1.1, which every broker speaks; and what their messages say."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from tests.support.broker import Broker
from tests.support.subscriber import Received, Subscriber
from tests.support.waiting import eventually

PREFIX = "vessel/sync"
#: A topic that neither vessel nor follower uses.
MARKER = f"{PREFIX}/test/marker"


def subscriber(
    broker: Broker,
    *topics: str,
    qos: int = 2,
    client_id: str | None = None,
    retained: bool = False,
) -> Subscriber:
    """A subscriber; with a `client_id` its session outlives it.

    `retained`: also what a new subscription is sent first.
    """
    args = ["-V", "mqttv311", *broker.login]
    if client_id:
        args += ["-i", client_id, "-c"]
    if not retained:
        args.append("-R")
    return Subscriber(broker.port, *topics, qos=qos, args=tuple(args))


def wait_until_reached(broker: Broker, target: Subscriber, marker: str) -> None:
    """Return once `target`, which has subscribed to everything, gets what is published now."""

    def reached() -> bool:
        broker.publish(MARKER, marker, "-q", "1")
        eventually(lambda: _has(target, marker), 0.25)
        return True

    eventually(reached, 20, message=f"{marker} arrives")


def _has(target: Subscriber, marker: str) -> bool:
    return any(message.payload == marker for message in target.messages)


class Tally:
    """What a subscriber has got; each message is parsed once."""

    def __init__(self, target: Subscriber) -> None:
        self._target = target
        self._parsed = 0
        #: changes in order of arrival, with their messages
        self.changes: list[tuple[Received, dict[str, Any]]] = []
        #: items of catch-ups, by catch-up: entity and number
        self.items: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)
        self._seqs: set[int] = set()

    def seen(self, first: int) -> int:
        """How many different changes from number `first` on have arrived."""
        self.update()
        return sum(seq >= first for seq in self._seqs)

    def item_count(self, catchup_id: str) -> int:
        """How many different items of a catch-up have arrived."""
        self.update()
        return len(self.items[catchup_id])

    def update(self) -> None:
        """Look at what has arrived since the last call."""
        new = self._target.messages[self._parsed :]
        self._parsed += len(new)
        for message in new:
            content = None if message.topic == MARKER else message.json
            if not isinstance(content, dict):
                continue
            if content.get("type") == "data_change":
                self.changes.append((message, content))
                self._seqs.add(content["seq"])
            elif content.get("type") == "catchup":
                self.items[content["catchupId"]].add((content["entity"], content["sequence"]))

    def arrived(self, first: int, last: int) -> Arrived:
        """Look at the changes with numbers from `first` to `last`."""
        self.update()
        times: Counter[int] = Counter()
        alerts: set[int] = set()
        highest: defaultdict[str, int] = defaultdict(int)
        out_of_order = 0
        for message, change in self.changes:
            seq = change["seq"]
            if not first <= seq <= last:
                continue
            times[seq] += 1
            if change["entity"] == "alerts":
                alerts.add(seq)
            if times[seq] == 1:
                out_of_order += seq < highest[message.topic]
                highest[message.topic] = max(seq, highest[message.topic])
        repeated = {seq: count - 1 for seq, count in times.items() if count > 1}
        return Arrived(
            expected=last - first + 1,
            lost=last - first + 1 - len(times),
            repeated=sum(repeated.values()),
            repeated_alerts=sum(repeated[seq] for seq in alerts & set(repeated)),
            out_of_order=out_of_order,
        )


@dataclass(frozen=True)
class Arrived:
    """What a subscriber has got of a range of numbers."""

    expected: int
    lost: int
    repeated: int
    repeated_alerts: int
    #: First deliveries that came after one with a higher number, on the same topic.
    out_of_order: int
