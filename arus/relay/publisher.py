"""The publisher: sends the changes of the log to the broker, a step at a time.

A step collects everything that has happened since the last one, writes it in one transaction, and only then sends the
packets that this transaction permits:

    acknowledgements -> topic queues -> one transaction (numbers, journal, counters) -> PUBREL, PUBLISH

The `Selector` selects what is sent next, `InFlight` tracks what was sent, and the `Reporter` counts and reports.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from arus.catchup.planner import plan_repairs
from arus.errors import SessionError
from arus.mqtt.client import Session
from arus.mqtt.events import Connected
from arus.mqtt.handshakes import Allowance
from arus.mqtt.meter import Kind
from arus.mqtt.packets import Ack
from arus.outbox.eviction import Eviction
from arus.outbox.log import ChangeLog, FencedTransaction
from arus.outbox.usage import DataBudget
from arus.protocol.entries import ChangeState
from arus.protocol.messages import Progress
from arus.protocol.times import now_ms
from arus.protocol.topics import CATCHUP
from arus.settings import Settings

from .backlog import Backlog
from .budget import PACKET, Budget
from .compression import Compression
from .in_flight import InFlight
from .numbering import Numbering, Unnumbered
from .packet_limit import PacketLimit
from .poison import PoisonDetector
from .repairs import Repairs
from .reports import Report, Reporter
from .selector import WRITE_AHEAD, Selection, Selector
from .services import Services, Topics


class Step(NamedTuple):
    """The result of a step."""

    #: More entries without a number may be waiting.
    more: bool
    #: Transactions of the last second among the entries found without a number.
    committed: int
    #: A digest of the tables was requested.
    digest_wanted: bool


class Publisher:
    """Moves changes from the log to the broker. Runs in the relay's thread.

    :param sender: the sender of signals.
    """

    def __init__(
        self,
        log: ChangeLog,
        session: Session,
        settings: Settings,
        topics: Topics,
        services: Services,
        sender: Any,
    ) -> None:
        self._log = log
        self._session = session
        self._prefix = settings.topic_prefix
        self._catchups = services.catchups
        #: How messages are sent.
        self.compression = Compression(log, session, settings, services.trainer)
        self._poison = PoisonDetector(settings.reconnect_period)
        self._in_flight = InFlight(
            session, self._poison, prefix=self._prefix, max_inflight=settings.max_inflight
        )
        self.handshakes = self._in_flight.handshakes  #: Those that the broker has open.
        self.budget = _budget(log, session, settings, topics)
        parts = self._in_flight, self.compression, topics.priorities, self.budget
        self._selector = Selector(log, session, *parts)
        self._backlog = Backlog()
        self._numbering = Numbering(log, self._backlog, _eviction(settings, topics))
        self._reporter = Reporter(sender, self.budget.limits)
        #: The packet size that the broker accepts in this connection.
        self._limit = PacketLimit(self._prefix)
        #: The QoS that the broker supported in the last connection.
        self._maximum_qos = session.features.maximum_qos
        self._connected = False
        #: There may be dropped changes whose rows' state was not sent yet.
        self._repair_due = True
        self.repairs = Repairs(log)
        #: Nothing can be sent before something is acknowledged.
        self._is_blocked = False

    # -- connection -------------------------------------------------------------------------------

    def begin(self, connected: Connected, known: Allowance | None = None) -> None:
        """Restore the state of every handshake: confirmed messages are released, all others are sent again.

        :param known: the handshakes that this broker was found to accept, if it does not announce them.
        """
        self.end()
        if self._session.features.maximum_qos != self._maximum_qos:
            self._maximum_qos = self._session.features.maximum_qos
            self._poison.clear()  # it was the QoS that the broker has hung up on
        self._limit = PacketLimit(self._prefix, connected.maximum_packet_size)
        topic_queues = self._log.topic_queues.values()
        self._in_flight.begin(connected, known, topic_queues)
        self._backlog.begin(now_ms(), topic_queues)
        self.compression.begin(self._limit, session_present=connected.session_present)
        self._connected = True

    def lost(self, error: SessionError) -> None:
        """Note that the connection ended, and discard all state that is not journalled."""
        if self._connected:
            queues = self._log.topic_queues
            self._in_flight.lost(error, [name for name in queues if queues[name].depth])
        self.end()

    def end(self) -> None:
        """Discard all state that is not journalled, as if the packets had been lost."""
        self._connected = False
        self._in_flight.end()
        self._backlog.end()
        self._is_blocked = False
        self._catchups.forget()
        self._repair_due = True
        self._log.reload()
        self.compression.end()

    # -- work to do -------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Numbered changes that wait for an acknowledgement."""
        return sum(each.depth for each in self._log.topic_queues.values())

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is in flight."""
        return self._in_flight.is_empty and not self._session.beside

    def fits(self, topic: str, payload: bytes) -> bool:
        """Whether the broker accepts a message of this size."""
        return self._limit.fits(topic, payload)

    @property
    def has_room(self) -> bool:
        """Whether the broker accepts one more message now."""
        return self._in_flight.has_room

    @property
    def has_room_beside(self) -> bool:
        """Whether the broker accepts one more message now, even if the window is full."""
        return self._in_flight.has_room_beside

    @property
    def can_send(self) -> bool:
        """Whether a step now would send something."""
        return (
            self._connected
            and not self._is_blocked
            and self._session.buffered < WRITE_AHEAD
            and self._in_flight.is_worth_filling
            and (
                self._repair_due
                or self._numbering.sweep_due
                or (not self.budget.holds_catchups and self._catchups.has_next)
                or self._selector.has_next
            )
        )

    def trouble(self, now: float) -> tuple[bool, str | None]:
        """Return whether messages wait and nothing was acknowledged for a minute, and why the broker refuses some.

        :param now: monotonic seconds.
        """
        return self._in_flight.trouble(now)

    @property
    def _only_waits(self) -> bool:
        """Whether a step would do nothing that can't wait: acknowledgements are to share a transaction within 20 ms."""
        waits = time.monotonic() < self._in_flight.due_at < math.inf
        return waits and not self._backlog and not self.can_send

    @property
    def wake_at(self) -> float:
        """When a step is due even if nothing happens before, in monotonic seconds."""
        resumes_at = self._selector.resumes_at if self._connected else math.inf
        return min(self._in_flight.due_at, resumes_at)

    def check_unanswered(self, now: float) -> None:
        """Check for messages that the broker has passed over; to be called about once a second.

        :param now: monotonic seconds.
        :raises ConnectionLostError: there are some; they are sent again in the next connection.
        """
        self._is_blocked = False
        self._in_flight.check_unanswered(now)

    def acknowledged(self, ack: Ack, unread: float = 0.0) -> None:
        """Process an acknowledgement; the next step journals its outcome.

        :param unread: seconds for which the socket was not read before it.
        :raises SessionMismatchError: the broker's half of the session does not match this log.
        """
        self._is_blocked = False
        if not self._in_flight.acknowledged(ack, unread):
            # It belongs to a message of a catch-up or a control message, or is a repeated one.
            self.compression.acknowledged(ack.packet_id, ack.reason)
            sent_at = self._catchups.acknowledged(ack.packet_id, ack.reason)
            if sent_at is not None:
                self._in_flight.measure(sent_at, unread)

    def reported(self, reports: Iterable[tuple[str, Progress]]) -> None:
        """Process the reports of consumers, by name, on how much of a catch-up they have received."""
        for consumer, progress in reports:
            self._catchups.reported(consumer, progress)

    # -- a step -----------------------------------------------------------------------------------

    def step(
        self,
        *,
        look: bool,
        feed: bool = True,
        most: int | None = None,
        catchup_requested: bool = False,
    ) -> Step:
        """Journal all outcomes, and send the packets that this permits.

        :param look: check for entries without a number.
        :param feed: send new messages.
        :param most: maximum number of changes to send; None for as many as the window has room for.
        :param catchup_requested: a catch-up was queued.
        :raises LeadershipLostError: nothing was written and nothing sent.
        :raises LogUnavailableError: as above.
        """
        if feed and not (look or catchup_requested) and self._only_waits:
            return Step(False, 0, False)
        if self.budget.look():
            self._catchups.resumed()
        sweep = self._numbering.sweep_due
        feed = feed and self._connected and not sweep
        self.compression.step(has_room=feed and self.has_room_beside)
        waiting = self._numbering.find() if look else Unnumbered()
        committed = waiting.committed_just_now
        selection = Selection()
        if feed:
            self._select(selection, most, refill=True)
        if catchup_requested or (look and not waiting.entries):
            self._catchups.requested()  # a notification without a change may be for a catch-up
        repair = feed and self._repair_due and not selection.messages
        paced = feed and not self.budget.holds_catchups
        digest_wanted = (
            paced
            and self._catchups.ready
            and self._catchups.prepare(self._limit.room(CATCHUP), self.compression.compress)
        )
        report = None
        due = repair or sweep or self._is_due(selection, feed=feed)
        if waiting.entries or selection.messages or due:
            report = self._journal(waiting, selection, most, feed=feed, repair=repair)
        if paced:
            self._send_catchups()
        if report is not None:
            self._reporter.announce(report)
        return Step(sweep or waiting.is_full, committed, digest_wanted)

    def _is_due(self, selection: Selection, *, feed: bool) -> bool:
        """Whether something is to be journalled now, even if nothing is numbered or sent."""
        due_at = self._in_flight.due_at
        if due_at <= time.monotonic():
            return True
        if due_at < math.inf and (not feed or (self._backlog and self._in_flight.is_empty)):
            # It may be the last one of the backlog, whose flush is reported without delay.
            return True
        return (
            bool(selection.quarantined)
            or self._catchups.due
            or self._reporter.due
            or self.budget.due
        )

    def _select(self, selection: Selection, most: int | None, *, refill: bool) -> None:
        shared = self._catchups.waiting and not self.budget.holds_catchups
        self._selector.add(selection, self._limit, most=most, refill=refill, shared=shared)
        self._is_blocked = selection.is_blocked

    def _journal(
        self,
        waiting: Unnumbered,
        selection: Selection,
        most: int | None,
        *,
        feed: bool,
        repair: bool,
    ) -> Report:
        """Write all outcomes in one transaction, then send the packets that it permits."""
        with self._log.fenced_transaction() as fenced:
            numbered = self._numbering.write(fenced, waiting)
            if waiting.entries and feed:
                # In an idle system a change is sent in the step that numbers it.
                self._select(selection, most, refill=False)
            outcomes = self._in_flight.collect()
            quarantined = [*outcomes.quarantined, *selection.quarantined]
            for entry, reason in quarantined:
                fenced.settle(entry.id, ChangeState.QUARANTINED, reason)
            depth = self.depth
            seqs = [entry.seq for entry in outcomes.acknowledged]
            self._poison.completed(seqs, quarantined, depth=depth)
            report = Report(
                queued=numbered.queued,
                acknowledged=outcomes.acknowledged,
                quarantined=quarantined,
                evicted=numbered.evicted,
                flushed=self._backlog.flush(self._log.topic_queues),
                catchups=self._catchups.journal(fenced.connection) if self._catchups.due else [],
                depth=depth,
                is_full=self._numbering.is_full(depth),
                sent=self.budget.take_sent(),
            )
            if repair:
                self._plan_repairs(fenced)
            self._repair_due = self._repair_due or bool(report.dropped)
            self.repairs.note(report)
            fenced.save_topic_queues()
            self.compression.journal(fenced.connection)
            self._reporter.write(report, fenced)
            self.budget.write(fenced, selection.size + len(selection.messages) * PACKET)
        self._in_flight.send(outcomes.releases, selection.messages)
        return report

    def _plan_repairs(self, fenced: FencedTransaction) -> None:
        plan_repairs(fenced.connection, head_seq=self._log.head_seq)
        self._repair_due = False
        self._catchups.requested()

    def _send_catchups(self) -> None:
        """Send as much of a catch-up as the window has room for; it is journalled once it is acknowledged."""
        while (size := self._catchups.next_size) is not None:
            is_full = not self.has_room or self._session.buffered >= WRITE_AHEAD
            if is_full or not self.budget.admits(size):
                return
            message = self._catchups.next_message()
            assert message is not None, "it has a size"
            topic, payload = message
            packet_id = self._session.publish_beside(
                f"{self._prefix}/{topic}", payload, retain=False, kind=Kind.CATCHUPS
            )
            self._catchups.sent(packet_id, time.monotonic())


def _budget(log: ChangeLog, session: Session, settings: Settings, topics: Topics) -> Budget:
    limits = DataBudget(settings.data_budget, settings.zone, topics.priorities.urgent)
    return Budget(log, session, limits)


def _eviction(settings: Settings, topics: Topics) -> Eviction:
    bound, always = settings.max_queue_size, settings.supersede_always
    return Eviction(bound, topics.priorities.urgent, always=always)
