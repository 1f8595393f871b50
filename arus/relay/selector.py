"""Selects what is sent next: changes of all topic queues by the priority of their topics, then by their numbers.

Order is kept per topic, so a topic may be sent before others: a slow link delivers alerts first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from operator import itemgetter

from msgspec import Struct, field

from arus.mqtt.client import Session
from arus.mqtt.packets import packet_id_of
from arus.outbox.log import ChangeLog
from arus.outbox.topic_queue import READ_AHEAD, TopicQueue
from arus.protocol.encoding import encode_change
from arus.protocol.entries import Entry
from arus.registry import URGENT, Priorities

from .budget import PACKET, Budget
from .compression import Compression
from .in_flight import InFlight, Outgoing
from .packet_limit import PacketLimit

#: Bytes waiting for the socket beyond which nothing more is selected.
WRITE_AHEAD = 256 * 1024


class Selection(Struct):
    """The messages to send next."""

    messages: list[Outgoing] = field(default_factory=list)
    #: Changes that can't be sent: the packet would be larger than the broker accepts. With the reason.
    quarantined: list[tuple[Entry, str]] = field(default_factory=list)
    #: Bytes of payload of the messages.
    size: int = 0
    #: Bytes that changes that are not urgent may have in addition to `size`, by the data budget.
    budget: float = math.inf
    packet_ids: set[int] = field(default_factory=set)
    #: Something waits for an acknowledgement, and nothing could be added.
    is_blocked: bool = False


class Selector:
    """Selects and encodes the messages to send next. Lives as long as its owner.

    :param priorities: by topic, the order in which topics are sent.
    :param budget: decides what waits for the next day.
    """

    def __init__(
        self,
        log: ChangeLog,
        session: Session,
        in_flight: InFlight,
        compression: Compression,
        priorities: Priorities,
        budget: Budget,
    ) -> None:
        self._log = log
        self._session = session
        self._in_flight = in_flight
        self._compression = compression
        self._priorities = priorities
        self._budget = budget
        #: The topics of which a change is tried alone, and not before its time.
        self._aside = in_flight.aside

    @property
    def has_next(self) -> bool:
        """Whether any topic queue has something to send."""
        now = time.monotonic()
        return any(self._has_next(each, now) for each in self._log.topic_queues.values())

    def _has_next(self, topic_queue: TopicQueue, now: float) -> bool:
        if not topic_queue.has_next(now):
            return False
        if self._aside and self._aside.holds(topic_queue.topic, now):
            return False
        return self._budget.may_send(self._priorities.of(topic_queue.topic))

    @property
    def resumes_at(self) -> float:
        """When the first pause of a topic ends, in monotonic seconds; infinity if none is paused."""
        now = time.monotonic()
        queues = self._log.topic_queues.values()
        pauses = (each.paused_until for each in queues if each.is_paused(now))
        return min(self._aside.resumes_after(now), min(pauses, default=math.inf))

    def add(
        self,
        selection: Selection,
        limit: PacketLimit,
        *,
        most: int | None,
        refill: bool,
        shared: bool,
    ) -> None:
        """Add to a selection as many changes as the window has room for; none if too little of it is free.

        :param limit: the packet size that the broker accepts.
        :param most: maximum number of messages in the selection; None for as many as the window has room for.
        :param refill: read more entries when all that were read ahead are selected.
        :param shared: reserve a part of the window for a catch-up.
        """
        if not self.has_next or not self._in_flight.is_worth_filling:
            return
        if self._aside and not self._may_try():
            return
        before = len(selection.messages)
        selection.budget = self._budget.room - selection.size - before * PACKET
        blocked: set[str] = set()
        while self._session.buffered + selection.size < WRITE_AHEAD:
            count = len(selection.messages)
            room: float = self._in_flight.room(count, selection.size, shared=shared)
            if most is not None:
                room = min(room, most - count)
            if room <= 0:
                break
            topic_queue, until = self._next_topic_queue(blocked, refill=refill)
            if topic_queue is None:
                break
            if not self._add_from(topic_queue, until, int(room), selection, limit):
                blocked.add(topic_queue.topic)
        selection.is_blocked = bool(blocked) and len(selection.messages) == before

    def _may_try(self) -> bool:
        """Choose the topic of which a change is sent alone; return whether the window has room, which that narrows."""
        now = time.monotonic()
        queues = self._log.topic_queues.values()
        self._aside.choose([each.topic for each in queues if self._has_next(each, now)], now)
        return self._in_flight.is_worth_filling

    def _add_from(
        self,
        topic_queue: TopicQueue,
        until: float,
        room: int,
        selection: Selection,
        limit: PacketLimit,
    ) -> bool:
        """Add up to `room` messages numbered below `until`; return whether the topic queue may go on.

        :param topic_queue: with entries that wait.
        """
        in_flight, messages = self._in_flight, selection.messages
        maximum_qos = self._session.features.maximum_qos
        encode = self._encoder(topic_queue)
        buffered = self._session.buffered
        is_urgent = self._priorities.of(topic_queue.topic) == URGENT
        again = bool(topic_queue.again)
        waiting = topic_queue.waiting
        most = len(messages) + room
        while (
            len(messages) < most
            and buffered + selection.size < WRITE_AHEAD
            and waiting
            and waiting[0].seq < until
        ):
            packet_id = packet_id_of(waiting[0].seq)
            if packet_id in selection.packet_ids or not in_flight.takes(packet_id):
                return False
            if again and not self._compression.may_repeat(topic_queue.topic, waiting[0].seq):
                return False
            entry = waiting[0]
            payload = encode(entry)
            if not is_urgent and self._budget.refuses(len(payload), selection.budget):
                break
            topic_queue.send_next()  # before anything else: a refill continues after it
            selection.budget -= len(payload) + PACKET
            excess = limit.excess(entry.topic, payload) if limit.maximum else None
            if excess is not None:
                in_flight.handshakes.closed(packet_id)
                topic_queue.quarantined(entry.seq)
                selection.quarantined.append((entry, _too_large(excess, limit)))
                continue
            qos = min(entry.qos, maximum_qos)
            if qos == 2:
                in_flight.handshakes.opened(packet_id, len(payload))
            selection.packet_ids.add(packet_id)
            selection.size += len(payload)
            messages.append(Outgoing(topic_queue, entry, packet_id, payload, qos, again))
        return True

    def _encoder(self, topic_queue: TopicQueue) -> Callable[[Entry], bytes]:
        """Return what turns the waiting entries of a topic queue into the bytes to send."""
        epoch, vessel_id = self._log.epoch, self._log.vessel_id
        seq, again = topic_queue.waiting[0].seq, bool(topic_queue.again)
        compress = self._compression.encoder(topic_queue.topic, seq, again=again)

        def encode(entry: Entry) -> bytes:
            payload = encode_change(entry, epoch=epoch, vessel_id=vessel_id)
            return payload if compress is None else compress(entry.seq, payload)

        return encode

    def _next_topic_queue(
        self, blocked: Collection[str], *, refill: bool
    ) -> tuple[TopicQueue | None, float]:
        """Return the next topic queue to send from, and the number up to which it stays the next."""
        ready: list[tuple[int, int, TopicQueue]] = []
        now = time.monotonic()
        trial = self._aside.trial
        for topic_queue in self._log.topic_queues.values():
            if trial is not None and topic_queue.topic != trial:
                continue
            if topic_queue.topic in blocked or not self._has_next(topic_queue, now):
                continue
            if refill and not topic_queue.waiting:
                self._refill(topic_queue)
            waiting = topic_queue.waiting
            if waiting:
                priority = self._priorities.of(topic_queue.topic)
                ready.append((priority, waiting[0].seq, topic_queue))
        if not ready:
            return None, math.inf
        ready.sort(key=itemgetter(0, 1))
        priority, _, topic_queue = ready[0]
        second = ready[1] if len(ready) > 1 else None
        return topic_queue, second[1] if second and second[0] == priority else math.inf

    def _refill(self, topic_queue: TopicQueue) -> None:
        entries = self._log.read(
            topic_queue.topic,
            after=topic_queue.read_seq,
            upto=topic_queue.head_seq,
            limit=READ_AHEAD,
        )
        topic_queue.read(entries, is_all=len(entries) < READ_AHEAD)


def _too_large(excess: int, limit: PacketLimit) -> str:
    return f"its packet of {excess} bytes is larger than the broker takes ({limit.maximum})"
