"""The follower's loop: one thread, one connection to the broker, one to the database.

Messages are acknowledged to the broker after the transaction that applied them is committed. If the process, the
broker or the link fails, the broker redelivers unacknowledged messages, `previousSeq` reveals lost ones, and the
versions of the rows make repeated ones harmless.
"""

from __future__ import annotations

import select
import time
import uuid
from collections.abc import Callable, Iterable

from arus.errors import SessionError
from arus.logs import get_logger
from arus.mqtt.client import Session
from arus.mqtt.connection import Connection, Opened
from arus.mqtt.events import Connected, LookedBack, Received, SessionEvent, Subscribed
from arus.mqtt.packets import Ack
from arus.protocol.times import now_ms

from .answers import Answers
from .outcome import REQUESTS, Inbound, Outcome
from .outgoing import Outgoing
from .parts import Common, Parts
from .received_queue import ReceivedQueue
from .requests import ask, unanswered
from .roll_calls import RollCalls
from .sql.build import Some
from .subscriptions import Subscriptions
from .vessels import VesselState
from .watermarks import Watermarks, pause_of
from .windows import Windows

logger = get_logger(__name__)

#: Maximum number of messages applied in one transaction.
BATCH = 500
#: Messages that the broker may send before they are acknowledged.
RECEIVE_MAXIMUM = 2000
#: Seconds without a message after which the follower counts as idle.
IDLE = 0.25
#: Seconds between two checks for due work.
TICK = 0.5
#: Seconds between two checks for vessels to forget.
EXPIRY = 60.0
_GOODBYE = 1.0


class Loop:
    """Follows until it is stopped.

    :param waker: a descriptor that becomes readable when `stopping` has changed.
    :param link: the name under which the connection is recorded; the follower's by default.
    :param vessels: ids of the vessels that are subscribed to; by default those of `FOLLOW_VESSELS`.
    """

    def __init__(
        self,
        common: Common,
        parts: Parts,
        session: Session,
        *,
        stopping: Callable[[], bool],
        waker: int,
        link: str | None = None,
        vessels: Some = None,
    ) -> None:
        settings, name, applier = common.settings, common.name, parts.applier
        self._applier = applier
        self._session = session
        self._audits = parts.audits
        self._outbox = parts.outbox
        self._settings = settings
        self._name = name
        self._patience = common.patience
        self._stopping = stopping
        self._waker = waker
        self._tree = settings.topics
        self._connection = Connection(session, settings.of_all(), stopping=stopping)
        named = settings.follow_vessels if vessels is None else vessels
        self._subscriptions = Subscriptions(session, self._tree, common.followed, named)
        self._link = link or name
        self._vessels = vessels
        self._roll_calls = RollCalls()
        self._inbox = ReceivedQueue(session, self._tree, parts.dictionaries, applier.vessels)
        self._heard = time.monotonic()
        self._next_tick = 0.0
        self._next_expiry = time.monotonic() + EXPIRY
        self._outgoing = Outgoing(session, self._tree, name)
        self._windows = Windows()
        self._watermarks = Watermarks(name, self._outgoing.watermark)
        self._answers = Answers(self._outgoing, parts.outbox, self._watermarks)

    # -- the loop -------------------------------------------------------------------------------------

    def run(self, until: Callable[[Loop], bool] = lambda _loop: False) -> None:
        """Follow until stopped, or until `until` returns true.

        :raises LogUnavailableError: the database can't be used; no state outside of it is lost.
        """
        try:
            while not self._stopping() and not until(self):
                try:
                    self._round()
                except SessionError as error:
                    self._disconnected(error)
            if self._connection.is_open:
                self._say_goodbye()
        finally:
            self._audits.stop()
            self._session.close()

    def _round(self) -> None:
        self._mind_the_connection()
        self._wait()
        # Many small messages arrive faster than they are applied: the rest waits in the socket.
        if self._session.fileno() is not None and len(self._inbox) < RECEIVE_MAXIMUM:
            for event in self._session.receive():
                self._take(event)
        self._work()
        if self._applier.has_due:
            self._applier.retry_held()
        if time.monotonic() >= self._next_tick:
            self._tick()
        if self._session.fileno() is not None:
            self._session.flush()

    def _wait(self) -> None:
        now = time.monotonic()
        wake_at = min(self._next_tick, self._connection.wake_at, self._inbox.wake_at)
        poll = select.poll()
        poll.register(self._waker, select.POLLIN)
        if (sock := self._session.fileno()) is not None:
            writes = select.POLLOUT if self._session.wants_write else 0
            poll.register(sock, select.POLLIN | writes)
        poll.poll(
            0 if self._inbox.is_ready or self._applier.has_due else max(0.0, wake_at - now) * 1000
        )

    def _take(self, event: SessionEvent) -> None:
        match event:
            case Connected():
                if not self._connection.accepted(event):
                    self._opened(self._connection.open())
            case LookedBack():
                self._connection.looked_back()
                self._opened(self._connection.open())
            case Subscribed():
                if self._subscriptions.take(event):
                    self._subscribed()
            case Ack():
                self._connection.acknowledged([event])
                self._answers.take(event)
            case Received() if self._connection.take_claim(event):
                pass
            case Received():
                self._heard = time.monotonic()
                inbound = Inbound(event.topic, event.payload, event.retain)
                self._inbox.add(inbound, event.packet_id if event.qos else None)

    def _work(self) -> None:
        """Apply a batch of received messages, and acknowledge them."""
        self._answers.process()  # what was proposed, before the vessels' answers to it are applied
        batch = self._inbox.batch(BATCH)
        applied = self._applier.apply(batch) if batch else None
        if self._connection.is_accepted:
            self._inbox.acknowledge()
        if applied is not None:
            self._subscriptions.applied(batch)
            self._noticed(applied)

    def _noticed(self, applied: Outcome) -> None:
        self._audits.heard(applied.digests)
        for vessel_id, entity, row_id in applied.repaired:
            self._audits.repaired(vessel_id, entity, [row_id])
        for vessel_id, entity in applied.doubted:
            self._audits.doubted(vessel_id, entity)
        for vessel_id in applied.questioned:
            self._audits.questioned(vessel_id)
        self._forget(applied.forgotten)
        if not self._tree.is_per_vessel:
            # A vessel has just come online: the retained watermark may be about another vessel by now.
            for vessel in applied.arrived:
                self._watermarks.forget(vessel.vessel_id)
        for vessel in self._applier.vessels.values():
            if not vessel.caught_up:
                self._next_tick = 0.0
            if self._subscriptions.answered and self._watermarks.is_overdue(
                vessel, self._windows.of(vessel.vessel_id)
            ):
                self._watermarks.publish(vessel, pause=0)

    def _forget(self, vessel_ids: Iterable[str]) -> None:
        """Forget vessels that the applier has forgotten: anyone can invent them."""
        for vessel_id in vessel_ids:
            self._audits.forget(vessel_id)
            self._watermarks.forget(vessel_id)

    # -- what is due ----------------------------------------------------------------------------------

    def _tick(self) -> None:
        idle = not self._inbox and time.monotonic() - self._heard >= IDLE
        self._next_tick = time.monotonic() + (TICK if idle else IDLE)
        if time.monotonic() >= self._next_expiry:
            self._next_expiry = time.monotonic() + EXPIRY
            self._forget(self._applier.expire())
        if not self._subscriptions.answered:
            return
        self._answers.record(self._applier, self._link)
        if self._subscriptions.has_become_current(self._heard):
            self._ask_again()
        if self._subscriptions.is_current:
            self._ask()
        self._propose()
        vessels = self._applier.vessels.values()
        if self._tree.is_per_vessel and self._roll_calls.is_due(vessels, now_ms()):
            self._outgoing.roll_call()
            self._roll_calls.sent()
        pause = pause_of(len(vessels), idle=idle)
        for vessel in vessels:
            self._watermarks.publish(vessel, pause=pause)

    def _ask(self) -> None:
        """Request what is missing; requests are saved before they are published: a restart does not repeat them."""
        now = now_ms()
        requests = self._audits.step(self._applier.vessels.values())
        for vessel in self._applier.vessels.values():
            vessel.look_for_lost_tail(now, self._patience.grace)
        for vessel in self._windows.give(self._applier.vessels.values(), now, self._patience):
            requests += ask(vessel, now, self._patience, lambda: str(uuid.uuid4()))
        if not requests:
            if any(vessel.changed for vessel in self._applier.vessels.values()):
                self._applier.save({})
            return
        self._applier.save({(REQUESTS, "", "", ""): len(requests)})
        for request in requests:
            self._outgoing.request(request, self._windows.of(str(request.vessel_id)))

    def _propose(self) -> None:
        vessels = self._applier.vessels.values()
        away = [vessel.vessel_id for vessel in vessels if vessel.online is False]
        for due in self._outbox.due(away, followed=self._applier.vessels):
            self._outgoing.proposal(due)

    @property
    def caught_up(self) -> bool:
        """Whether everything known to be published is applied, and the watermarks are published and acknowledged."""
        vessels = self._applier.vessels.values()
        return (
            self._subscriptions.is_current
            and self._has_heard_all
            and not self._inbox
            and self._outgoing.is_empty
            and not self._applier.held
            and time.monotonic() - self._heard >= IDLE
            and bool(vessels)
            and all(_is_level(vessel, self._watermarks) for vessel in vessels)
        )

    @property
    def _has_heard_all(self) -> bool:
        """Whether each vessel that is online has had the opportunity to make itself known."""
        return (
            not self._tree.is_per_vessel
            or self._subscriptions.are_present_read
            or self._roll_calls.is_answered
        )

    # -- connection -----------------------------------------------------------------------------------

    def _mind_the_connection(self) -> None:
        attempt = self._connection.step()
        if attempt is None:
            return
        if attempt.is_logged:
            logger.info(
                "[MQTT Reliable Sync] reconnecting (attempt %d), because %s",
                attempt.number,
                attempt.says,
                extra={"attempt": attempt.number, "broker": str(self._settings.broker)},
            )
        self._connection.connect(clean_start=False)

    def _opened(self, opened: Opened) -> None:
        connected = opened.connected
        self._watermarks.clear()
        self._outgoing.begin(connected.receive_maximum)
        logger.info(
            "[MQTT Reliable Sync] %s is connected to %s (MQTT %s, session %s)",
            self._name,
            self._settings.broker,
            connected.protocol,
            "resumed" if connected.session_present else "new",
        )
        self._applier.opened(self._link)
        self._answers.begin()
        if not connected.session_present:
            self._session_is_new()
        if self._connection.claim_due:
            self._connection.publish_claim()
        held = self._applier.subscribed(self._link) if connected.session_present else []
        self._subscriptions.ask(session_present=connected.session_present, held=held)

    def _session_is_new(self) -> None:
        """Request what was published meanwhile: the broker has kept nothing for us."""
        for vessel in self._applier.vessels.values():
            vessel.session_lost()
        self._applier.save({})

    def _subscribed(self) -> None:
        self._applier.subscribe(self._link, self._subscriptions.filters)
        self._roll_calls.subscribed()
        self._outbox.again(self._vessels)
        self._heard = time.monotonic()
        self._next_tick = 0.0

    def _ask_again(self) -> None:
        """Repeat requests whose answer has not begun: they may have been lost with the last connection."""
        for vessel in self._applier.vessels.values():
            for request in unanswered(vessel):
                self._outgoing.request(request, self._windows.of(vessel.vessel_id))

    def _disconnected(self, error: SessionError) -> None:
        self._subscriptions.lost()
        self._inbox.lost()
        idle = self._session.client.idle_time if self._outgoing.is_empty else None
        closed = self._connection.ended(error, idle)
        closed.log(self._settings.broker)
        self._applier.closed(self._link, closed)

    def _say_goodbye(self) -> None:
        """Apply all received messages, publish the last watermarks, and disconnect."""
        deadline = time.monotonic() + _GOODBYE
        try:
            while self._inbox.is_ready:
                self._work()
            if self._subscriptions.answered:
                for vessel in self._applier.vessels.values():
                    self._watermarks.publish(vessel, pause=0)
            self._session.say_goodbye(deadline)
        except SessionError as error:
            self._disconnected(error)


def _is_level(vessel: VesselState, watermarks: Watermarks) -> bool:
    return (
        vessel.caught_up
        and not vessel.is_sweeping
        and not vessel.pending
        and (vessel.heads is None or not vessel.behind(vessel.heads))
        and watermarks.is_published(vessel)
    )
