"""The follower's loop: one thread, one connection to the broker, one to the database.

Messages are acknowledged to the broker once the transaction that applied them is committed. Whatever ends,
process, broker or link, the broker delivers again what was not acknowledged, `previousSeq` tells what it has
lost, and the versions of the rows make it no matter what comes twice.
"""

from __future__ import annotations

import logging
import random
import select
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from arus.codec import Ack
from arus.errors import ConnectionLostError, ProtocolRefusedError, SessionError, TakenOverError
from arus.message import iso, now_ms
from arus.probe import settle_version
from arus.rivals import STAND_DOWN, Rivals
from arus.session import Connected, LookedBack, Received, Session, SessionEvent, Subscribed
from arus.settings import Settings
from arus.topics import CATCHUP, CATCHUP_REQUESTS, CONFLICTS, DIGEST, STATUS, WATERMARKS

from .applier import REQUESTS, Applied, Applier, Inbound
from .audit import Audits
from .position import Need, Patience, VesselState, ask, unanswered
from .proposals import Outbox

logger = logging.getLogger(__name__)

#: Messages applied in one transaction at most.
BATCH = 500
#: Messages that the broker may send ahead.
RECEIVE_MAXIMUM = 2000
#: Seconds between two watermarks of a vessel while changes keep coming.
WATERMARK_PERIOD = 2.0
#: Seconds without a message after which the follower takes itself to be idle.
IDLE = 0.25
#: Seconds between two looks at what is due.
TICK = 0.5
_GOODBYE = 1.0

_chance = random.Random()


@dataclass(slots=True)
class _Published:
    """The watermark of a vessel, as it was published last."""

    seq: int = -1
    epoch: str = ""
    audit: Any = None
    at: float = 0.0


@dataclass(slots=True)
class _Link:
    """One connection and what belongs to it."""

    #: Monotonic seconds until which CONNACK may take; None while none is being opened.
    opening_until: float | None = None
    open: bool = False
    subscribed: bool = False
    subscribing: int | None = None
    next_attempt: float = 0.0
    attempts: int = 0
    reasons: set[str] = field(default_factory=set)


class Loop:
    """Follows until it is stopped.

    :param topics: the entities' topics, under the prefix.
    :param waker: a descriptor that becomes readable when `stopping` has changed.
    """

    def __init__(
        self,
        applier: Applier,
        session: Session,
        audits: Audits,
        outbox: Outbox,
        settings: Settings,
        *,
        name: str,
        topics: Iterable[str],
        patience: Patience,
        stopping: Callable[[], bool],
        waker: int,
    ) -> None:
        self._applier = applier
        self._session = session
        self._audits = audits
        self._outbox = outbox
        self._settings = settings
        self._name = name
        self._patience = patience
        self._stopping = stopping
        self._waker = waker
        prefix = settings.topic_prefix
        self._prefix = prefix
        #: What tells the present state, and is read anew with each connection.
        self._present = [f"{prefix}/{STATUS}", f"{prefix}/{DIGEST}"]
        self._filters = [f"{prefix}/{topic}" for topic in topics]
        self._filters += [f"{prefix}/{CATCHUP}/{topic}" for topic in topics]
        self._filters.append(f"{prefix}/{CONFLICTS}")
        self._link = _Link()
        self._rivals = Rivals(session.client_id, prefix, settings.reconnect_period)
        self._inbox: deque[tuple[Inbound, int | None]] = deque()
        self._heard = time.monotonic()
        self._next_tick = 0.0
        self._published: dict[str, _Published] = {}
        #: Packet ids of what was published and not acknowledged yet.
        self._unacknowledged: set[int] = set()
        #: Proposals by the packet id that they were published with, and those that the broker has taken.
        self._proposed: dict[int, str] = {}
        self._taken: list[str] = []
        #: Rows were written since held changes were tried.
        self._try_held = True

    # -- the loop -------------------------------------------------------------------------------------

    def run(self, until: Callable[[Loop], bool] = lambda _loop: False) -> None:
        """Follow until stopped, or until `until` says so.

        :raises LogUnavailableError: the database can't be used; all that counts is in it.
        """
        try:
            while not self._stopping() and not until(self):
                try:
                    self._round()
                except SessionError as error:
                    self._disconnected(error)
            if self._link.open:
                self._say_goodbye()
        finally:
            self._audits.stop()
            self._session.close()

    def _round(self) -> None:
        self._mind_the_link()
        self._wait()
        if self._session.fileno() is not None:
            for event in self._session.receive():
                self._take(event)
        self._work()
        if time.monotonic() >= self._next_tick:
            self._tick()
        if self._session.fileno() is not None:
            self._session.flush()

    def _wait(self) -> None:
        now = time.monotonic()
        wake_at = self._next_tick
        if self._link.opening_until is not None:
            wake_at = min(wake_at, self._link.opening_until)
        elif not self._link.open:
            wake_at = min(wake_at, self._link.next_attempt)
        poll = select.poll()
        poll.register(self._waker, select.POLLIN)
        sock = self._session.fileno()
        if sock is not None:
            poll.register(
                sock, select.POLLIN | (select.POLLOUT if self._session.wants_write else 0)
            )
        poll.poll(0 if self._inbox else max(0.0, wake_at - now) * 1000)

    def _take(self, event: SessionEvent) -> None:
        match event:
            case Connected():
                self._opened(event)
            case Subscribed():
                self._subscribed(event)
            case Ack():
                self._unacknowledged.discard(event.packet_id)
                if (proposal_id := self._proposed.pop(event.packet_id, None)) is not None:
                    self._taken.append(proposal_id)
            case LookedBack():
                self._rivals.check()
                self._session.publish_beside(self._rivals.topic, self._rivals.claim(), retain=True)
            case Received() if event.topic == self._rivals.topic:
                self._rivals.heard(event.payload)
            case Received():
                self._heard = time.monotonic()
                inbound = Inbound(event.topic, event.payload, event.retain)
                self._inbox.append((inbound, event.packet_id if event.qos else None))

    def _work(self) -> None:
        """Apply a batch of what has arrived, and acknowledge it."""
        if self._taken:
            self._outbox.taken(self._taken)  # before their answers are applied
            self._taken.clear()
        if not self._inbox:
            return
        batch = [self._inbox.popleft() for _ in range(min(BATCH, len(self._inbox)))]
        applied = self._applier.apply([message for message, _ in batch])
        if self._link.open:
            for _, packet_id in batch:
                if packet_id is not None:
                    self._session.acknowledge(packet_id)
        self._try_held = self._try_held or applied.rows > 0
        self._noticed(applied)

    def _noticed(self, applied: Applied) -> None:
        self._audits.heard(applied.digests)
        for vessel_id, entity, row_id in applied.repaired:
            self._audits.repaired(vessel_id, entity, [row_id])
        # It has just come: what was retained for it may be another vessel's by now.
        for vessel in applied.arrived:
            self._published.pop(vessel.vessel_id, None)
        if any(not vessel.caught_up for vessel in self._applier.vessels.values()):
            self._next_tick = 0.0

    # -- what is due ----------------------------------------------------------------------------------

    def _tick(self) -> None:
        idle = not self._inbox and time.monotonic() - self._heard >= IDLE
        self._next_tick = time.monotonic() + (TICK if idle else IDLE)
        if self._try_held and idle and self._applier.held:
            self._try_held = False
            self._applier.retry_held()
        if not self._link.subscribed:
            return
        self._ask()
        self._propose()
        for vessel in self._applier.vessels.values():
            self._publish_watermark(vessel, idle=idle)

    def _ask(self) -> None:
        """Ask for what is missing; it is saved before it is published, so that a restart asks no second time."""
        now = now_ms()
        requests = self._audits.step(self._applier.vessels.values())
        for vessel in self._applier.vessels.values():
            self._look_for_lost_tail(vessel, now)
            requests += ask(vessel, now, self._patience, lambda: str(uuid.uuid4()))
        if not requests:
            if any(vessel.changed for vessel in self._applier.vessels.values()):
                self._applier.save({})
            return
        self._applier.save({(REQUESTS, "", "", ""): len(requests)})
        for request in requests:
            self._publish_request(request)

    def _propose(self) -> None:
        vessels = self._applier.vessels.values()
        away = [vessel.vessel_id for vessel in vessels if vessel.online is False]
        for proposal_id, topic, payload in self._outbox.due(away):
            packet_id = self._session.publish_beside(
                f"{self._prefix}/{topic}", payload, retain=False
            )
            self._unacknowledged.add(packet_id)
            self._proposed[packet_id] = proposal_id

    def _look_for_lost_tail(self, vessel: VesselState, now: int) -> None:
        if vessel.heads is None or now - vessel.heads_at < self._patience.grace * 1000:
            return
        for position in vessel.behind(vessel.heads):
            if position.need is Need.NOTHING:
                position.need = Need.CHANGES
                vessel.changed = True
        vessel.heads = None

    def _publish_request(self, request: dict[str, Any]) -> None:
        logger.info(
            "[MQTT Reliable Sync] asking %s for %s (%s)",
            request["vesselId"],
            request["entity"],
            request.get("mode") or f"since {request.get('sinceSeq', 'the beginning')}",
            extra={"request": request["requestId"]},
        )
        self._publish(CATCHUP_REQUESTS, request, retain=False)

    def _publish_watermark(self, vessel: VesselState, *, idle: bool) -> None:
        last = self._published.setdefault(vessel.vessel_id, _Published())
        now = time.monotonic()
        if (last.seq, last.epoch, last.audit) == (vessel.seq, vessel.epoch, vessel.audit):
            return
        if not idle and now - last.at < WATERMARK_PERIOD:
            return
        document = {
            "vesselId": vessel.vessel_id,
            "epoch": vessel.epoch,
            "seq": vessel.seq,
            "timestamp": iso(now_ms()),
            "audit": vessel.audit,
        }
        self._publish(f"{WATERMARKS}/{self._name}", document, retain=True)
        last.seq, last.epoch, last.audit, last.at = vessel.seq, vessel.epoch, vessel.audit, now

    def _publish(self, topic: str, document: dict[str, Any], *, retain: bool) -> None:
        packet_id = self._session.publish_beside(
            f"{self._prefix}/{topic}", orjson.dumps(document), retain=retain
        )
        self._unacknowledged.add(packet_id)

    @property
    def caught_up(self) -> bool:
        """Whether all that the vessels are known to have published is applied, and they were told."""
        vessels = self._applier.vessels.values()
        return (
            self._link.subscribed
            and not self._inbox
            and not self._unacknowledged
            and not self._applier.held
            and time.monotonic() - self._heard >= IDLE
            and bool(vessels)
            and all(self._is_level(vessel) for vessel in vessels)
        )

    def _is_level(self, vessel: VesselState) -> bool:
        last = self._published.get(vessel.vessel_id)
        return (
            vessel.caught_up
            and not vessel.pending
            and (vessel.heads is None or not vessel.behind(vessel.heads))
            and last is not None
            and (last.epoch, last.seq) == (vessel.epoch, vessel.seq)
        )

    # -- the link -------------------------------------------------------------------------------------

    def _mind_the_link(self) -> None:
        now = time.monotonic()
        link = self._link
        if link.open:
            self._session.keep_alive()
        elif link.opening_until is not None:
            if now >= link.opening_until:
                raise ConnectionLostError("the broker did not answer CONNECT in time")
        elif now >= link.next_attempt:
            settle_version(self._session, self._settings, self._stopping)
            self._session.connect(clean_start=False)
            link.opening_until = time.monotonic() + self._settings.connect_timeout

    def _opened(self, event: Connected) -> None:
        link = self._link
        link.open, link.opening_until, link.attempts = True, None, 0
        link.reasons.clear()
        self._published.clear()
        self._unacknowledged.clear()
        self._proposed.clear()
        logger.info(
            "[MQTT Reliable Sync] %s follows at %s (MQTT %s, session %s)",
            self._name,
            self._settings.broker,
            event.protocol,
            "resumed" if event.session_present else "new",
        )
        if not event.session_present:
            self._session_is_new()
        self._rivals.accepted(time.monotonic())
        if self._rivals.suspicious:
            self._session.look_back([self._rivals.topic])
        # A subscription that the broker knows brings no retained message: make these two new.
        self._session.forget(self._present)
        link.subscribing = self._session.ask([(one, 1) for one in (*self._filters, *self._present)])

    def _session_is_new(self) -> None:
        """The broker has kept nothing for us: what was published meanwhile has to be asked for."""
        for vessel in self._applier.vessels.values():
            for position in vessel.positions.values():
                if position.need is Need.NOTHING:
                    position.need = Need.CHANGES
                if position.request is not None and position.request.begun:
                    position.request = None  # the rest of its answer is lost
                vessel.changed = True
        self._applier.save({})

    def _subscribed(self, event: Subscribed) -> None:
        if event.packet_id != self._link.subscribing:
            return
        refused = [
            name
            for name, reason in zip((*self._filters, *self._present), event.reasons, strict=False)
            if reason >= 0x80
        ]
        if refused:
            logger.error(
                "[MQTT Reliable Sync] the broker refuses the subscription to %s", ", ".join(refused)
            )
        self._link.subscribed = True
        self._outbox.again()
        self._heard = time.monotonic()
        for vessel in self._applier.vessels.values():
            for request in unanswered(vessel):
                self._publish_request(request)
        self._next_tick = 0.0

    def _disconnected(self, error: SessionError) -> None:
        link = self._link
        was_open, link.open, link.subscribed, link.opening_until = link.open, False, False, None
        self._session.close()
        # Their packet ids belong to the connection that has ended; what they say still counts.
        self._inbox = deque((message, None) for message, _ in self._inbox)
        link.attempts += 1
        pause = self._settings.reconnect_period * _chance.uniform(0.8, 1.2)
        if isinstance(error, ProtocolRefusedError):
            pause = 0.0
        if self._rivals.ended(error, time.monotonic()):
            pause = max(pause, STAND_DOWN)
            error = TakenOverError(self._session.client_id)
            logger.error("[MQTT Reliable Sync] %s; standing down for %d s", error, STAND_DOWN)
        link.next_attempt = time.monotonic() + pause
        news = was_open or str(error) not in link.reasons
        link.reasons.add(str(error))
        logger.log(
            logging.WARNING if news else logging.DEBUG,
            "[MQTT Reliable Sync] %s",
            error,
            extra={"broker": str(self._settings.broker), "attempt": link.attempts},
        )

    def _say_goodbye(self) -> None:
        """Apply what has arrived, publish the last watermark, and disconnect."""
        deadline = time.monotonic() + _GOODBYE
        try:
            while self._inbox:
                self._work()
            if self._link.subscribed:
                for vessel in self._applier.vessels.values():
                    self._publish_watermark(vessel, idle=True)
            self._session.say_goodbye(deadline)
        except SessionError as error:
            self._disconnected(error)


def client_id_of(name: str) -> str:
    """Return the MQTT client id of a follower: stable, so that the broker keeps its session."""
    return f"arus_follow_{name}"
