"""The changes in flight: sent and not completed; their acknowledgements; and how many more may be sent.

An acknowledgement is neither answered nor counted here: its outcome is collected and journalled by the publisher's
next transaction, and only then a PUBREL is sent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from arus.errors import SessionError, SessionMismatchError
from arus.mqtt.client import Session
from arus.mqtt.events import Connected
from arus.mqtt.handshakes import DEFAULT, SAFE, Allowance, Handshakes
from arus.mqtt.packets import PUBACK, PUBCOMP, PUBREC, Ack, packet_id_of
from arus.mqtt.refusals import QUOTA_EXCEEDED, REFUSED, is_hang_up, name_of, refusal_in
from arus.outbox.topic_queue import TopicQueue
from arus.protocol.entries import Entry
from arus.protocol.times import now_ms

from .flights import Flight, Flights
from .given_up import GivenUp
from .passed_over import PassedOver
from .poison import PoisonDetector
from .progress import Progress
from .refused import Refused
from .releases import Releases
from .window import Window

#: Seconds for which acknowledgements are batched before they are journalled, if no PUBREL has to follow: each
#: transaction costs the writers on board a disk flush.
ACK_DELAY = 0.02

#: The broker has another message under this packet id: its half of the session does not match this log.
_PACKET_ID_IN_USE = 0x91
#: The broker no longer knows the packet id of a PUBREL: its handshake is complete (MQTT 5, 4.4).
_PACKET_ID_NOT_FOUND = 0x92


class Outgoing(NamedTuple):
    """A change that is about to be sent."""

    topic_queue: TopicQueue
    entry: Entry
    packet_id: int
    payload: bytes
    #: The QoS of the packet: the change's, or the highest that the broker supports.
    qos: int
    #: It was sent before.
    again: bool


class Outcomes(NamedTuple):
    """The outcomes of changes since the last transaction; to be journalled by the next one."""

    acknowledged: list[Entry]
    #: With the reason of each.
    quarantined: list[tuple[Entry, str]]
    #: Packet ids of the PUBRELs that may be sent once that is done.
    releases: list[int]


class InFlight:
    """The changes in flight, by packet id. Lives as long as its owner.

    :param prefix: of all topics.
    :param max_inflight: a fixed size of the window; None to adapt it to the link.
    """

    def __init__(
        self, session: Session, poison: PoisonDetector, *, prefix: str, max_inflight: int | None
    ) -> None:
        self._session = session
        self._poison, self.aside = poison, poison.aside
        self._prefix = prefix
        self._window = Window(max_inflight, poison)
        self.handshakes = Handshakes()
        self._session_present = False
        self._flights = Flights()
        self._outcomes = Outcomes([], [], [])
        self._due_at = math.inf
        self._progress = Progress()
        self._passed_over = PassedOver()
        self._releases = Releases(session, poison)
        self._given_up = GivenUp(poison, self._passed_over)
        self._refused = Refused()
        self._qos_2_confirmed = False

    # -- connection -------------------------------------------------------------------------------

    def begin(
        self, connected: Connected, known: Allowance | None, topic_queues: Iterable[TopicQueue]
    ) -> None:
        """Restore the state of every handshake: confirmed messages are released, all others are sent again.

        :param known: the handshakes that this broker was found to accept, if it does not announce them.
        """
        self._window.connected(connected.receive_maximum)
        self._session_present = connected.session_present
        again: list[Entry] = []
        for topic_queue in topic_queues:
            self._resume(topic_queue)
            again += topic_queue.again
        opened = connected.session_present and self._session.features.maximum_qos == 2
        left = [entry for entry in again if entry.qos == 2 and opened]
        self.handshakes.begin(
            _allowance(connected, known, v5=self._session.v5),
            visible=self._session.v5,
            grows=self._session.v5 and connected.receive_maximum is None,
            confirmed=self._flights.rows,
            unconfirmed={packet_id_of(entry.seq): len(entry.data) for entry in left},
        )

    def _resume(self, topic_queue: TopicQueue) -> None:
        if not self._session_present and topic_queue.again:
            # The broker no longer has what it confirmed: a PUBREL would release nothing. Journalled before the
            # first PUBLISH: after a crash these PUBRECs would be mistaken for those of the new session.
            topic_queue.forget_received()
            self._due_at = -math.inf
        for entry in list(topic_queue.again):
            confirmed = entry.qos == 2 and topic_queue.is_received(entry.seq)
            why = self._given_up.why(entry, confirmed=confirmed)
            if why is None and not confirmed:
                continue  # it is sent again
            topic_queue.withdraw(entry)
            if why is None:
                packet_id = packet_id_of(entry.seq)
                self._releases.resume(packet_id, is_first=not self._flights)
                flight = Flight(topic_queue, entry, 0, time.monotonic(), 2, confirmed=True)
                self._flights.add(packet_id, flight)
            elif confirmed:
                self._acknowledge(topic_queue, entry)
                self._due_at = -math.inf
            else:
                self._quarantine(topic_queue, entry, why)

    def end(self) -> None:
        """Discard all state that is not journalled, as if the packets had been lost."""
        self._progress.end(self._oldest)
        self._refused.end()
        self._qos_2_confirmed = False
        self._flights.forget()
        self._releases.held.clear()
        self.collect()

    # -- room -------------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Whether no change is in flight."""
        return not self._flights

    @property
    def has_room(self) -> bool:
        """Whether the broker accepts one more message now."""
        return self.handshakes.has_room and self._window.room(self._unacknowledged, 0) > 0

    @property
    def has_room_beside(self) -> bool:
        """Whether the broker accepts one more message now, even if the window is full."""
        return self.handshakes.has_room and self._unacknowledged < self._window.limit

    @property
    def is_worth_filling(self) -> bool:
        """Whether enough of the window is free: a transaction for each message would be slow."""
        room = self._window.room(self._unacknowledged, self._flights.size)
        if room <= 0 or not self.handshakes.worth_feeding:
            return False
        return not self._flights or room >= self._window.size // 4

    def room(self, messages: int, size: int, *, shared: bool) -> int:
        """Return how many more changes may be sent, in addition to `messages` of `size` bytes that are about to be.

        :param shared: reserve a part of the window for a catch-up.
        """
        messages += self._unacknowledged + (self._window.size // 4 if shared else 0)
        return self._window.room(messages, self._flights.size + size)

    @property
    def _unacknowledged(self) -> int:
        return len(self._flights) + self._session.beside

    def takes(self, packet_id: int) -> bool:
        """Whether the PUBLISH of a packet id may be sent now.

        It may not while an old message has the same packet id, or the broker accepts no more handshakes.
        """
        return packet_id not in self._flights and self.handshakes.takes(packet_id)

    # -- sending ----------------------------------------------------------------------------------

    def send(self, releases: Sequence[int], messages: Sequence[Outgoing]) -> None:
        """Send PUBRELs by packet id, and changes; the transaction that permits them is committed."""
        for packet_id in releases:
            self._session.release(packet_id)
        now = time.monotonic()
        if messages and self.aside.trial is not None:
            self._session.ping()  # the answer tells a hang-up on this change from a connection that was dead before
        topics = {t: f"{self._prefix}/{t}".encode() for t in {m.entry.topic for m in messages}}
        for topic_queue, entry, packet_id, payload, qos, again in messages:
            self._flights.add(packet_id, Flight(topic_queue, entry, len(payload), now, qos))
            self._session.publish_entry(
                topics[entry.topic],
                payload,
                packet_id=packet_id,
                qos=qos,
                dup=again and self._session_present and not self._refused.is_postponed(entry.seq),
            )

    # -- acknowledgements -------------------------------------------------------------------------

    def acknowledged(self, ack: Ack, unread: float) -> bool:
        """Process an acknowledgement; the next `collect` returns its outcome.

        :param unread: seconds for which the socket was not read before it.
        :returns: whether it belongs to a change that is in flight.
        :raises SessionMismatchError: the broker's half of the session does not match this log.
        """
        now = time.monotonic()
        flight = self._flights.get(ack.packet_id)
        self._progress.heard(now, -math.inf if flight is None else flight.sent_at)
        if flight is None:
            if ack.reason < REFUSED and not self._refused.is_empty:
                self._refused.accepted(None, -math.inf, now)
            return False
        if ack.reason >= REFUSED and ack.reason != _PACKET_ID_NOT_FOUND and not flight.confirmed:
            self._take_refusal(ack, flight)
        elif ack.kind == PUBREC and flight.qos == 2:
            self._confirmed(ack.packet_id, flight, unread)
        else:
            # Any kind of acknowledgement completes it: a broker that lowers QoS 2 answers with PUBACK, and otherwise
            # the message would stay in flight for ever.
            self._completed(ack, flight, unread)
        if self._due_at == math.inf:
            self._due_at = now + ACK_DELAY
        return True

    def _confirmed(self, packet_id: int, flight: Flight, unread: float) -> None:
        if not flight.confirmed:
            flight.confirmed = True
            if not self._refused.is_empty:
                self._refused.accepted(flight.entry.seq, flight.sent_at, time.monotonic())
            if not self._qos_2_confirmed:
                self._qos_2_confirmed = True
                self._session.features.confirmed(now_ms())
            flight.topic_queue.confirmed(flight.entry.seq)
            self.measure(flight.sent_at, unread)
            flight.sent_at = time.monotonic()
            self.handshakes.confirmed()
        self._outcomes.releases.append(packet_id)
        self._due_at = -math.inf  # the PUBREL waits for the journal

    def _completed(self, ack: Ack, flight: Flight, unread: float) -> None:
        entry = flight.entry
        if ack.kind == PUBREC:  # of QoS 1: the broker has raised it to 2, and waits for the PUBREL
            self._outcomes.releases.append(ack.packet_id)
        elif ack.kind == PUBACK and flight.qos == 2 and not flight.confirmed:
            self._session.features.lowered(now_ms())
        if not flight.confirmed:
            if not self._refused.is_empty:
                self._refused.accepted(entry.seq, flight.sent_at, time.monotonic())
            self.measure(flight.sent_at, unread)
        self._remove(ack.packet_id, flight)
        self._acknowledge(flight.topic_queue, entry)
        if flight.confirmed and self._releases.held:
            self._releases.completed(self._flights)

    def _take_refusal(self, ack: Ack, flight: Flight) -> None:
        if ack.reason == _PACKET_ID_IN_USE:
            raise SessionMismatchError
        self._remove(ack.packet_id, flight)
        topic_queue, entry = flight.topic_queue, flight.entry
        if self._refused.is_final(entry.seq, ack.reason):
            self._quarantine(topic_queue, entry, f"the broker refused it: {name_of(ack.reason)}")
            return
        if ack.reason == QUOTA_EXCEEDED:
            self.handshakes.rejected(ack.packet_id)
        self._session.features.refused(ack.reason, now_ms())
        self._refused.postpone(topic_queue, entry, ack.reason, time.monotonic())

    def _remove(self, packet_id: int, flight: Flight) -> None:
        self._flights.remove(packet_id)
        if flight.qos == 2:
            self.handshakes.closed(packet_id)
        if not self._refused.is_empty:
            self._refused.completed(flight.entry.seq)

    def _acknowledge(self, topic_queue: TopicQueue, entry: Entry) -> None:
        topic_queue.acknowledged(entry.seq)
        self._outcomes.acknowledged.append(entry)

    def _quarantine(self, topic_queue: TopicQueue, entry: Entry, reason: str) -> None:
        topic_queue.quarantined(entry.seq)
        self._outcomes.quarantined.append((entry, reason))
        self._due_at = -math.inf

    def measure(self, sent_at: float, unread: float) -> None:
        """Adapt the window to the first answer to a message: PUBACK, or PUBREC at QoS 2, each one round trip.

        :param unread: seconds for which the socket was not read before it.
        """
        now = time.monotonic()
        self._window.acknowledged(now - sent_at, now, unread)

    # -- outcomes ---------------------------------------------------------------------------------

    @property
    def due_at(self) -> float:
        """When the outcomes are to be journalled, in monotonic seconds: infinity if there are none, -infinity for now."""
        return self._due_at

    def collect(self) -> Outcomes:
        """Return the outcomes since the last call."""
        outcomes, self._outcomes = self._outcomes, Outcomes([], [], [])
        self._due_at = math.inf
        self.aside.accepted(outcomes.acknowledged)
        return outcomes

    def lost(self, error: SessionError, waiting: Collection[str]) -> None:
        """Note why the connection ended, and the topics of which changes wait; `end` follows."""
        suspects = self._flights.suspects(self._releases.held, self._session.answered_until)
        if not is_hang_up(error):
            self._poison.cut(suspects, waiting)
            return
        if self._flights.has_qos_2 and not self._qos_2_confirmed:
            self._session.features.hung_up()
        self._poison.hung_up(
            suspects,
            acknowledged=self._progress.passed > -math.inf,
            others_pass=self._progress.was_heard and not self._session.beside,
            refusal=refusal_in(error),
            waiting=waiting,
        )

    def trouble(self, now: float) -> tuple[bool, str | None]:
        """Return whether messages of any kind wait and nothing was acknowledged for a minute, and the last refusal.

        :param now: monotonic seconds.
        """
        obstacle = self._refused.obstacle or self.aside.obstacle
        return self._progress.is_stalled(self._oldest, now), obstacle

    @property
    def _oldest(self) -> float:
        return min(self._flights.oldest, self._session.oldest_beside)

    def check_unanswered(self, now: float) -> None:
        """Check for a message that the broker has passed over.

        :param now: monotonic seconds.
        :raises ConnectionLostError: there is one; it is sent again in the next connection.
        """
        for packet_id in self._releases.unanswered(self._flights, now):
            self._completed(Ack(PUBCOMP, packet_id, 0), self._flights[packet_id], 0.0)
            self._due_at = -math.inf
        self._passed_over.check(
            ((each.entry, each.sent_at) for each in self._flights.values() if not each.confirmed),
            self._session.oldest_beside,
            passed=self._progress.passed,
            read=self._session.answered_until,
            now=now,
        )


def _allowance(connected: Connected, known: Allowance | None, *, v5: bool) -> Allowance:
    """Return the handshakes that the broker accepts: announced, detected, or assumed."""
    if connected.receive_maximum is not None:
        return Allowance(connected.receive_maximum)
    return Allowance(DEFAULT) if v5 else known or SAFE
