"""The flow of changes: numbered, picked, licensed, sent, acknowledged.

A turn is the heart of it. It takes all that became known since the last one, writes it in one transaction,
and only then lets the packets leave which that transaction has licensed:

    acknowledgements -> lanes -> one transaction (numbers, journal, counters) -> PUBREL, PUBLISH
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from . import signals
from .catchup import Catchups, Run, plan_repairs
from .changelog import ChangeLog, Turn
from .codec import PUBACK, PUBREC, Ack
from .counters import DROPPED, FAILURES, FLUSHES, PUBLISHED, QUEUED, CounterKey
from .errors import ConnectionLostError, SessionError
from .handshakes import DEFAULT, SAFE, Allowance, Handshakes
from .history import History
from .lane import Lane
from .message import ChangeState, Entry, encode_change, now_ms
from .overflow import GivenUp, Overflow
from .registry import MAX_TOPIC
from .session import Connected, Session, packet_id_of
from .suspicion import Suspicion
from .topics import CATCHUP
from .window import Window

logger = logging.getLogger(__name__)

#: Entries numbered in one turn.
NUMBER_BATCH = 1_000
#: Entries of a lane read ahead at a time.
READ_AHEAD = 500
#: Seconds for which plain acknowledgements wait for company before they are journalled: nothing is
#: licensed by them, and each transaction costs the writers on board a disk flush.
ACK_DELAY = 0.02
#: Seconds after which a message is not going to be answered any more, if the broker has read past it.
UNANSWERED = 60.0
#: Connections in which a broker may pass the same change over before it is given up.
MAX_UNANSWERED = 3
#: Bytes waiting for the socket beyond which nothing more is picked.
WRITE_AHEAD = 256 * 1024
#: What the fixed header, the packet id and empty properties of a PUBLISH take at most, in bytes.
_PUBLISH_OVERHEAD = 10

#: The broker may take it later (MQTT 5, 2.4).
_QUOTA_EXCEEDED = 0x97
#: The broker holds something else under this packet id: its half of the session is not of this log.
_PACKET_ID_IN_USE = 0x91
#: The broker no longer knows the packet id of a PUBREL: its handshake is complete (MQTT 5, 4.4).
_PACKET_ID_NOT_FOUND = 0x92
_REFUSALS = {
    0x80: "unspecified error",
    0x83: "implementation specific error",
    0x87: "not authorized",
    0x90: "topic name invalid",
    0x95: "packet too large",
    0x99: "payload format invalid",
}


@dataclass(slots=True)
class Flight:
    """A change that was sent and is not settled."""

    lane: Lane
    entry: Entry
    #: Bytes of payload.
    size: int
    #: Monotonic seconds: of the PUBLISH; once it is confirmed, of the PUBREL.
    sent_at: float
    #: PUBREC has arrived: its PUBREL is due or on its way.
    confirmed: bool = False


class _Pick(NamedTuple):
    """An entry about to be sent."""

    lane: Lane
    entry: Entry
    packet_id: int
    payload: bytes
    #: It was sent before, in an earlier connection.
    again: bool


class Flow:
    """What is between the change log and the broker. Lives in the relay's thread.

    :param sender: the sender of signals.
    :param urgent: topics that pass others: a slow link delivers alerts first (order is per topic).
    """

    def __init__(
        self,
        log: ChangeLog,
        session: Session,
        *,
        prefix: str,
        max_inflight: int | None,
        max_queue_size: int,
        urgent: frozenset[str],
        catchups: Catchups,
        sender: Any,
    ) -> None:
        self._log = log
        self._session = session
        self._prefix = prefix
        self._urgent = urgent
        self._sender = sender
        self._window = Window(max_inflight)
        self.handshakes = Handshakes()
        self._overflow = Overflow(max_queue_size, urgent)
        self._catchups = catchups
        #: When each message of a catch-up was sent, by packet id, in monotonic seconds.
        self._beside_sent: dict[int, float] = {}
        self._suspicion = Suspicion()
        self._history = History()
        #: Seconds for which nothing was read before the acknowledgements that are taken now.
        self.deaf = 0.0
        #: The broker answers QoS 2 as if it were QoS 1.
        self.lowers_qos = False
        #: Something was acknowledged in this connection.
        self._fruitful = False
        #: What was sent before then the broker has read: it has answered something later. Monotonic seconds.
        self._passed = -math.inf
        #: Connections in which the broker has passed a change over, by its number.
        self._unanswered: Counter[int] = Counter()
        #: Changes may have been dropped whose rows' state was not sent yet.
        self._repair_due = True
        #: The queue is full; said once for the whole of it.
        self._overflowing = False
        self._flights: dict[int, Flight] = {}
        self._bytes = 0
        self._maximum_packet: int | None = None
        self._session_present = False
        #: Milliseconds since the epoch; None while there is no connection.
        self._connected_at: int | None = None
        #: PUBRELs to send once their PUBRECs are journalled.
        self._releases: list[int] = []
        self._refused: list[tuple[Entry, str]] = []
        self._landed: list[Entry] = []
        self._counts: Counter[CounterKey] = Counter()
        #: Numbers that the broker was too busy for: sent again they are new messages (MQTT 5, 4.3.2).
        self._postponed: set[int] = set()
        #: Nothing can be sent before something is acknowledged.
        self._stuck = False
        #: Something is to be journalled at once: packets wait for it.
        self._due = False
        #: Monotonic seconds by which acknowledgements are to be journalled; None without any.
        self._due_at: float | None = None
        #: Transactions among what the last look has found that were committed just before it.
        self.committed = 0
        #: Highest id numbered by this owner.
        self._last_id = 0
        #: What had waited when the connection began: by topic, up to which number.
        self._backlog: dict[str, int] = {}
        self._backlog_size = 0

    # -- connection -------------------------------------------------------------------------------

    def begin(self, connected: Connected, known: Allowance | None = None) -> None:
        """Put every handshake where it stood: what was confirmed is released, the rest goes again.

        :param known: the handshakes that this broker was found to take, where it does not say so itself.
        """
        self.end()
        careful = self._suspicion.careful
        self._window.connected(1 if careful else connected.receive_maximum)
        self._maximum_packet = connected.maximum_packet_size
        self._catchups.maximum_payload = self._room_in(CATCHUP)
        self._session_present = connected.session_present
        self._connected_at = now_ms()
        for lane in self._log.lanes.values():
            if not connected.session_present and lane.again:
                # The broker has forgotten what it confirmed: a PUBREL would release nothing. Journalled
                # before the first PUBLISH, or a crash now would take these PUBRECs for this session's.
                lane.received = lane.acked.copy()
                lane.dirty = True
                self._due = True
            for entry in [e for e in lane.again if self._suspicion.convicted(e.seq)]:
                lane.again.remove(entry)
                lane.settled(entry.seq)
                self._refused.append((entry, "the broker hangs up on it"))
                self._suspicion.clear()
            self._give_up_unanswered(lane)
            for entry in [e for e in lane.again if e.qos == 2 and e.seq in lane.received]:
                lane.again.remove(entry)
                flight = Flight(lane, entry, 0, time.monotonic(), confirmed=True)
                self._flights[packet_id_of(entry.seq)] = flight
                self._session.release(packet_id_of(entry.seq))
            if lane.depth:
                self._backlog[lane.topic] = lane.head_seq
                self._backlog_size += lane.depth
        self._begin_handshakes(connected, known)

    def _give_up_unanswered(self, lane: Lane) -> None:
        """Let no change that the broker never answers hold up the log for ever."""
        for entry in [e for e in lane.again if self._unanswered[e.seq] >= MAX_UNANSWERED]:
            lane.again.remove(entry)
            del self._unanswered[entry.seq]
            if entry.qos == 2 and entry.seq in lane.received:
                # The broker said that it holds the message, and does not know the handshake any more.
                lane.settled(entry.seq)
                self._counts[PUBLISHED, entry.entity, entry.operation, str(entry.qos)] += 1
                self._landed.append(entry)
                self._due = True
            else:
                lane.settled(entry.seq)
                self._refused.append((entry, "the broker does not answer it"))

    def _begin_handshakes(self, connected: Connected, known: Allowance | None) -> None:
        """Count what the broker's half of the session may have open, and what it takes beside that."""
        allowance = known or SAFE
        if connected.receive_maximum is not None:
            allowance = Allowance(connected.receive_maximum)
        elif self._session.v5:
            allowance = Allowance(DEFAULT)
        lanes = self._log.lanes.values()
        again = [e for lane in lanes for e in lane.again if connected.session_present]
        self.handshakes.begin(
            allowance,
            visible=self._session.v5,
            grows=self._session.v5 and connected.receive_maximum is None,
            confirmed={
                packet_id: len(each.entry.data) for packet_id, each in self._flights.items()
            },
            unconfirmed={packet_id_of(e.seq): len(e.data) for e in again if e.qos == 2},
        )

    def lost(self, error: SessionError) -> None:
        """Note that the connection ended, and forget all that is not journalled."""
        if (
            isinstance(error, ConnectionLostError)
            and error.hung_up
            and self._connected_at is not None
        ):
            in_flight = [(flight.entry.seq, flight.size) for flight in self._flights.values()]
            self._suspicion.hung_up(in_flight, acknowledged=self._fruitful)
        self.end()

    def end(self) -> None:
        """Forget all that is not journalled, as if the packets had been lost on the way."""
        self._connected_at = None
        self._fruitful = False
        self._passed = -math.inf
        self._flights.clear()
        self._bytes = 0
        self._releases.clear()
        self._refused.clear()
        self._postponed.clear()
        self._landed.clear()
        self._counts.clear()
        self._backlog.clear()
        self._backlog_size = 0
        self._due = False
        self._due_at = None
        self._stuck = False
        self._catchups.forget()
        self._beside_sent.clear()
        self._repair_due = True
        self._log.reload()

    @property
    def depth(self) -> int:
        """Changes numbered and not settled."""
        return sum(lane.depth for lane in self._log.lanes.values())

    def _room_in(self, topic: str) -> int | None:
        """Return the bytes of payload that fit into a packet on a topic, or on one below it."""
        if self._maximum_packet is None:
            return None
        return self._maximum_packet - len(self._prefix) - len(topic) - MAX_TOPIC - _PUBLISH_OVERHEAD

    def fits(self, topic: str, payload: bytes) -> bool:
        """Whether the broker takes a message of this size."""
        room = self._room_in(topic)
        return room is None or len(payload) <= room

    def look_for_catchups(self) -> None:
        """Note that a catch-up may be queued."""
        self._catchups.look = True

    def digest_wanted(self) -> bool:
        """Whether somebody has asked for a digest of the tables since the last call."""
        wanted, self._catchups.digest_wanted = self._catchups.digest_wanted, False
        return wanted

    @property
    def has_room(self) -> bool:
        """Whether the broker takes one more message now."""
        return self.handshakes.has_room and self._window.room(self._unacknowledged, 0) > 0

    @property
    def _unacknowledged(self) -> int:
        return len(self._flights) + self._session.beside

    @property
    def can_send(self) -> bool:
        """Whether a turn now would send something."""
        return (
            self._connected_at is not None
            and not self._stuck
            and self._session.buffered < WRITE_AHEAD
            and self._worth_feeding
            and (
                self._repair_due
                or self._catchups.ready
                or self._catchups.waiting
                or any(self._has_next(lane, set()) for lane in self._log.lanes.values())
            )
        )

    @property
    def _worth_feeding(self) -> bool:
        """Whether a fair part of the window is free: a transaction for each message would be slow."""
        room = self._window.room(self._unacknowledged, self._bytes)
        if room <= 0 or not self.handshakes.worth_feeding:
            return False
        return not self._flights or room >= self._window.size // 4

    def mind(self, now: float) -> None:
        """Look after what no event tells; to be called about once a second.

        :param now: monotonic seconds.
        :raises ConnectionLostError: the broker has passed a message over; it goes again with the next connection.
        """
        self._stuck = False
        passed = max(self._passed, self._session.answered_until)
        late = [
            each
            for each in self._flights.values()
            if now - each.sent_at >= UNANSWERED and each.sent_at < passed
        ]
        self._unanswered.update(each.entry.seq for each in late)
        if late or self._session.oldest_beside < min(passed, now - UNANSWERED):
            which = f"change {late[0].entry.seq} on {late[0].entry.topic}" if late else "a message"
            raise ConnectionLostError(
                f"the broker has not acknowledged {which} in {UNANSWERED:.0f} s"
            )

    @property
    def wake_at(self) -> float:
        """When a turn is due without anything happening before, in monotonic seconds."""
        return math.inf if self._due_at is None else self._due_at

    # -- acknowledgements -------------------------------------------------------------------------

    def acknowledged(self, ack: Ack) -> None:
        """Take an acknowledgement; the next turn journals what it means."""
        self._stuck = False
        flight = self._flights.get(ack.packet_id)
        if flight is None:
            self._acknowledged_beside(ack)
            return
        self._fruitful = True
        self._passed = max(self._passed, flight.sent_at)
        if ack.reason >= 0x80 and ack.reason != _PACKET_ID_NOT_FOUND:
            self._refuse(ack, flight)
        elif ack.kind == PUBREC and flight.entry.qos == 2:
            self._confirm(ack.packet_id, flight)
        else:
            # Whatever its kind: a broker that lowers QoS 2 answers with PUBACK, and a message that is not
            # completed by the answer it was given would be in flight for ever.
            self._complete(ack, flight)
        if self._due_at is None:
            self._due_at = time.monotonic() + ACK_DELAY
        if self._backlog and not self._flights:
            self._due = True  # its last one, maybe: nobody is to wait for that to be known

    def _confirm(self, packet_id: int, flight: Flight) -> None:
        if not flight.confirmed:
            flight.confirmed = True
            flight.lane.confirmed(flight.entry.seq)
            self._measure(flight.sent_at)
            flight.sent_at = time.monotonic()
            self.handshakes.confirmed()
        self._releases.append(packet_id)
        self._due = True

    def _complete(self, ack: Ack, flight: Flight) -> None:
        entry = flight.entry
        if ack.kind == PUBREC:  # of QoS 1: the broker has raised it, and waits for the release
            self._releases.append(ack.packet_id)
        elif ack.kind == PUBACK and entry.qos == 2 and not self.lowers_qos:
            self.lowers_qos = True
            logger.warning(
                "[MQTT Reliable Sync] the broker lowers QoS 2 to 1: after a lost connection a change on"
                " %s may reach subscribers twice",
                entry.topic,
            )
        if not flight.confirmed:
            self._measure(flight.sent_at)
        self._land(ack.packet_id, flight)
        self._counts[PUBLISHED, entry.entity, entry.operation, str(entry.qos)] += 1
        self._landed.append(entry)

    def _acknowledged_beside(self, ack: Ack) -> None:
        """Take one of a catch-up's message, of a control message, or the second of the same packet."""
        sent_at = self._beside_sent.pop(ack.packet_id, None)
        if sent_at is not None:
            self._measure(sent_at)
            self._catchups.acknowledged(ack.packet_id, ack.reason)

    def _measure(self, sent_at: float) -> None:
        """Tell the window of a first answer: of QoS 2 the PUBREC, which takes the one round trip of a PUBACK."""
        now = time.monotonic()
        self._window.acknowledged(now - sent_at, now, self.deaf)

    def _refuse(self, ack: Ack, flight: Flight) -> None:
        if ack.reason == _PACKET_ID_IN_USE:
            self._log.clean_start = True
            raise ConnectionLostError("the broker's half of the session does not match the log")
        if ack.reason == _QUOTA_EXCEEDED:
            del self._flights[ack.packet_id]
            self._bytes -= flight.size
            self.handshakes.rejected(ack.packet_id)
            self._postponed.add(flight.entry.seq)
            flight.lane.postpone(flight.entry, time.monotonic())
            return
        reason = _REFUSALS.get(ack.reason, f"reason code 0x{ack.reason:02x}")
        self._land(ack.packet_id, flight)
        self._refused.append((flight.entry, f"the broker refused it: {reason}"))

    def _land(self, packet_id: int, flight: Flight) -> None:
        del self._flights[packet_id]
        self._bytes -= flight.size
        self.handshakes.closed(packet_id)
        self._postponed.discard(flight.entry.seq)
        flight.lane.settled(flight.entry.seq)

    # -- a turn -----------------------------------------------------------------------------------

    def turn(self, *, look: bool, feed: bool = True, most: int | None = None) -> bool:
        """Journal what is known and send what that licenses.

        :param look: look for entries without a number.
        :param feed: send new messages.
        :param most: messages of the log to send, at most; None for what the window takes.
        :returns: whether more entries without a number may be waiting.
        :raises OwnershipLostError: nothing was written and nothing sent.
        :raises LogUnavailableError: as above.
        """
        waiting = self._log.unnumbered(NUMBER_BATCH) if look else []
        self.committed = _fresh(waiting)
        picks = self._pick(most, refill=True) if feed else []
        if look and not waiting:
            self._catchups.look = True  # what the bell rang for was no change
        repair = feed and self._connected_at is not None and self._repair_due and not picks
        if feed and self._connected_at is not None and self._catchups.ready:
            self._catchups.prepare()
        due = self._due or self._catchups.due or bool(self._refused) or self._history.due
        due = due or (self._due_at is not None and (not feed or time.monotonic() >= self._due_at))
        if not (waiting or picks or due or repair):
            if feed:
                self._send_beside()
            return False
        queued: list[Entry] = []
        given_up: list[GivenUp] = []
        with self._log.turn() as turn:
            if waiting:
                entries = turn.number(waiting)
                queued = self._note_queued(entries)
                self._read_along(entries)
                given_up = turn.relieve(self._overflow, entries)
                # A change of an idle system goes out in the turn that numbers it.
                picks += self._pick(most, refill=False, beside=picks) if feed else []
            for entry, reason in self._refused:
                turn.settle(entry.id, "quarantined", reason)
            self._counts[FAILURES, "", "", ""] += len(self._refused)
            self._repair_due = self._repair_due or bool(given_up)
            dropped = [one for one in given_up if one.outcome is ChangeState.DROPPED]
            self._counts[DROPPED, "", "", ""] += len(dropped)
            flushed = self._backlog_flushed()
            if not self.depth:
                self._suspicion.clear()
            caught_up = self._catchups.journal(turn.connection) if self._catchups.due else []
            if repair:
                self._plan_repairs(turn)
            for topic in {entry.topic for entry in self._landed}:
                self._log.lanes[topic].acked_at = now_ms()
            turn.save_lanes()
            turn.count(+self._counts)
            self._history.note(published=len(self._landed), depth=self.depth)
            if self._history.due:
                self._history.write(turn)
        self._send(picks)
        if feed:
            self._send_beside()
        self._tell(queued, flushed)
        self._tell_dropped(dropped)
        self._tell_caught_up(caught_up)
        return len(waiting) == NUMBER_BATCH

    def _send_beside(self) -> None:
        """Send what the window has room for of a catch-up; it is journalled once all is acknowledged."""
        while self.has_room and self._session.buffered < WRITE_AHEAD:
            message = self._catchups.take()
            if message is None:
                return
            topic, payload = message
            packet_id = self._session.publish_beside(
                f"{self._prefix}/{topic}", payload, retain=False
            )
            self._beside_sent[packet_id] = time.monotonic()
            self._catchups.sent(packet_id)

    def _plan_repairs(self, turn: Turn) -> None:
        plan_repairs(turn.connection, head_seq=self._log.head_seq)
        self._repair_due = False
        self._catchups.look = True

    def _note_queued(self, entries: list[Entry]) -> list[Entry]:
        since = self._connected_at
        # One with an id from before is a retried one: it has met its connection.
        queued = [
            entry
            for entry in entries
            if since is None or (entry.committed_at < since and entry.id > self._last_id)
        ]
        self._last_id = max(self._last_id, entries[-1].id)
        if queued:
            self._counts[QUEUED, "", "", ""] += len(queued)
            if since is not None:
                self._backlog.update((e.topic, e.seq) for e in queued)
                self._backlog_size += len(queued)
        return queued

    def _read_along(self, entries: list[Entry]) -> None:
        """Save the lanes a read of what was just numbered, where they have read all before it."""
        for entry in entries:
            lane = self._log.lanes[entry.topic]
            if lane.read_seq >= entry.previous_seq and len(lane.ahead) < READ_AHEAD:
                lane.ahead.append(entry)

    def _backlog_flushed(self) -> int:
        """Return how many changes had waited, once the last of them is settled."""
        if not self._backlog:
            return 0
        lanes = self._log.lanes
        # By depth too: the last that had waited may have been given up, and is never acknowledged.
        if any(lanes[t].depth and lanes[t].acked.value < seq for t, seq in self._backlog.items()):
            return 0
        self._backlog.clear()
        flushed, self._backlog_size = self._backlog_size, 0
        self._counts[FLUSHES, "", "", ""] += 1
        return flushed

    # -- picking ----------------------------------------------------------------------------------

    def _pick(self, most: int | None, *, refill: bool, beside: Sequence[_Pick] = ()) -> list[_Pick]:
        if self._connected_at is None or not self._worth_feeding:
            return []
        limit = math.inf if most is None else most - len(beside)
        used = self._unacknowledged + len(beside)
        if self._catchups.waiting:
            used += self._window.size // 4  # a catch-up has its share, however much else there is
        in_bytes = self._bytes + sum(len(pick.payload) for pick in beside)
        buffered = self._session.buffered
        taken = {pick.packet_id for pick in beside}
        blocked: set[str] = set()
        picks: list[_Pick] = []
        while buffered < WRITE_AHEAD:
            room = min(limit - len(picks), self._window.room(used + len(picks), in_bytes))
            if room <= 0:
                break
            lane, before = self._next_lane(blocked, refill=refill)
            if lane is None:
                break
            queue = lane.again or lane.ahead
            again = queue is lane.again
            while room > 0 and buffered < WRITE_AHEAD and queue and queue[0].seq < before:
                packet_id = packet_id_of(queue[0].seq)
                wrapped = packet_id in self._flights or packet_id in taken
                if wrapped or not self.handshakes.takes(packet_id):
                    # The window has wrapped around an old message, or the broker takes no more: wait.
                    blocked.add(lane.topic)
                    break
                entry = queue.popleft()
                payload = self._encode(lane, entry, again)
                if payload is None:
                    self.handshakes.closed(packet_id)
                    continue
                if entry.qos == 2:
                    self.handshakes.opened(packet_id, len(payload))
                taken.add(packet_id)
                picks.append(_Pick(lane, entry, packet_id, payload, again))
                room -= 1
                in_bytes += len(payload)
                buffered += len(payload)
        self._stuck = bool(blocked) and not picks
        return picks

    def _encode(self, lane: Lane, entry: Entry, again: bool) -> bytes | None:
        """Return the payload of an entry that is about to be sent; None where the broker would not take it."""
        payload = encode_change(entry, epoch=self._log.epoch, vessel_id=self._log.vessel_id)
        size = len(payload) + len(self._prefix) + 1 + len(entry.topic) + _PUBLISH_OVERHEAD
        if not again:
            lane.sent(entry)  # at once: a refill reads on from here
        if self._maximum_packet is not None and size > self._maximum_packet:
            lane.settled(entry.seq)
            reason = f"its packet of {size} bytes is larger than the broker takes ({self._maximum_packet})"
            self._refused.append((entry, reason))
            return None
        return payload

    def _next_lane(self, blocked: set[str], *, refill: bool) -> tuple[Lane | None, float]:
        """Return the lane whose turn it is, and the number before which it stays so."""
        ready: list[tuple[bool, int, Lane]] = []
        for lane in self._log.lanes.values():
            if not self._has_next(lane, blocked):
                continue
            if refill and not lane.again and not lane.ahead:
                self._refill(lane)
            queue = lane.again or lane.ahead
            if queue:
                ready.append((lane.topic not in self._urgent, queue[0].seq, lane))
        if not ready:
            return None, math.inf
        ready.sort(key=itemgetter(0, 1))
        ordinary, _, lane = ready[0]
        second = ready[1] if len(ready) > 1 else None
        return lane, second[1] if second and second[0] == ordinary else math.inf

    def _refill(self, lane: Lane) -> None:
        entries = self._log.read(
            lane.topic, after=lane.read_seq, upto=lane.head_seq, limit=READ_AHEAD
        )
        lane.ahead.extend(entries)
        if len(entries) < READ_AHEAD:
            lane.scanned = lane.head_seq  # the rest has another outcome than delivery

    def _has_next(self, lane: Lane, blocked: set[str]) -> bool:
        if lane.topic in blocked or lane.held(time.monotonic()):
            return False
        return bool(lane.again or lane.ahead) or not lane.caught_up

    # -- after the commit -------------------------------------------------------------------------

    def _send(self, picks: list[_Pick]) -> None:
        for packet_id in self._releases:
            self._session.release(packet_id)
        now = time.monotonic()
        for lane, entry, packet_id, payload, again in picks:
            self._flights[packet_id] = Flight(lane, entry, len(payload), now)
            self._bytes += len(payload)
            self._session.publish_entry(
                f"{self._prefix}/{entry.topic}".encode(),
                payload,
                packet_id=packet_id,
                qos=entry.qos,
                dup=again and self._session_present and entry.seq not in self._postponed,
            )

    def _tell(self, queued: list[Entry], flushed: int) -> None:
        """Send the signals of what was committed, and start the next turn's notes afresh."""
        landed, self._landed = self._landed, []
        refused, self._refused = self._refused, []
        self._releases.clear()
        self._counts.clear()
        self._due = False
        self._due_at = None
        for entry in queued:
            signals.send(signals.message_queued, self._sender, **_described(entry))
        for entry in landed if signals.message_published.receivers else ():
            signals.send(
                signals.message_published, self._sender, seq=entry.seq, **_described(entry)
            )
        for entry, reason in refused:
            logger.error(
                "[MQTT Reliable Sync] change quarantined: %s",
                reason,
                extra={"message_id": entry.message_id, "seq": entry.seq, "topic": entry.topic},
            )
            signals.send(signals.error, self._sender, error=reason)
        if flushed:
            logger.info("[MQTT Reliable Sync] queue flushed: %d changes", flushed)
            signals.send(signals.queue_flushed, self._sender, count=flushed)

    def _tell_caught_up(self, finished: list[Run]) -> None:
        for run in finished:
            logger.info(
                "[MQTT Reliable Sync] catch-up of %s published (%s): %d rows",
                run.entity,
                run.mode,
                run.published,
                extra={"catchup_id": run.catchup_id},
            )
            signals.send(
                signals.catchup_published,
                self._sender,
                catchup_id=run.catchup_id,
                entity=run.entity,
                published=run.published,
            )

    def _tell_dropped(self, dropped: list[GivenUp]) -> None:
        if dropped and not self._overflowing:
            logger.warning(
                "[MQTT Reliable Sync] the queue is full (MQTT_MAX_QUEUE_SIZE): the oldest changes give"
                " way; the state of their rows is sent after the next connection",
                extra={"depth": self.depth},
            )
        self._overflowing = bool(dropped) or (
            self._overflowing and self._overflow.is_full(self.depth)
        )
        for one in dropped:
            signals.send(signals.message_dropped, self._sender, **_described(one))


def _fresh(waiting: Sequence[Entry]) -> int:
    """Count the transactions of the last second; the entries of one have the same time."""
    since = now_ms() - 1_000
    return len({each.committed_at for each in waiting if each.committed_at > since})


def _described(entry: Entry | GivenUp) -> dict[str, Any]:
    return {
        "message_id": entry.message_id,
        "entity": entry.entity,
        "operation": entry.operation,
    }
