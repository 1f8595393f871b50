"""The relay: one thread that drives both the change log and the socket.

Each round waits for the socket or the notifier, processes what the broker has sent, and runs one step of the
publisher. There are no locks, no queues between threads and no callbacks: what a round does not finish, the next one
does. Whatever fails, and whenever, the log records which packets the broker may have seen.
"""

from __future__ import annotations

import math
import select
import threading
import time
from collections.abc import Callable
from typing import Any

from arus import signals
from arus.errors import SessionError, SessionMismatchError
from arus.inbound.router import InboundRouter, Served
from arus.logs import get_logger
from arus.mqtt.client import Session
from arus.mqtt.connection import Attempt, Connection, Opened, State
from arus.mqtt.events import Connected, LookedBack, Received, SessionEvent, Subscribed
from arus.mqtt.packets import Ack
from arus.outbox.counters import RECONNECTS
from arus.outbox.history import note_link
from arus.outbox.log import ChangeLog
from arus.outbox.notifier import NotificationListener
from arus.outbox.retention import Retention
from arus.settings import Settings

from .broker_traits import BrokerTraits
from .publisher import Publisher
from .restored import RestoreCheck
from .services import Services, Topics
from .status_reports import StatusReports
from .throttle import Throttle
from .waiting import Waiting
from .watchdog import Watchdog

logger = get_logger(__name__)

#: Seconds between two checks of the log without a notification.
POLL_INTERVAL = 1.0
#: Seconds that a stop waits for the broker to acknowledge the last message.
GOODBYE = 1.0
#: Seconds that a stop waits for a handler of the application to return.
INBOX_STOP = 2.0
#: Seconds within which a poll returns if it does not have to wait.
_AT_ONCE = 0.001


class Relay:
    """Moves changes from the log to the broker while this process owns the session.

    :param sender: the sender of signals: the application.
    """

    def __init__(
        self,
        log: ChangeLog,
        session: Session,
        notifier: NotificationListener,
        settings: Settings,
        *,
        topics: Topics,
        services: Services,
        sender: Any,
    ) -> None:
        self._log, self._session = log, session
        tree, settings = settings.topics, settings.of_vessel(log.vessel_id)
        self._settings = settings
        self._sender = sender
        self._publisher = Publisher(log, session, settings, topics, services, sender)
        self._retention = Retention(
            log, days=settings.retention_days, bound=settings.max_queue_size
        )
        self._stopping = threading.Event()
        entities = {one.topic: one.entity for one in services.registry}
        self._restored = RestoreCheck(log, settings.topic_prefix, topics.published, entities)
        #: Topics whose retained messages show what this vessel has published before.
        own = self._restored.topics
        self._connection = Connection(
            session, settings, look_back=own, stopping=self._stopping.is_set
        )
        self._inbox, self._auditor = services.inbox, services.auditor
        self._catchups = services.catchups
        self._router = InboundRouter(
            log, session, services.inbox, services.auditor, services.registry, tree=tree, own=own
        )
        self._traits = BrokerTraits(log, session, settings)
        self._reports = StatusReports(
            log, session, self._publisher, services.auditor, settings.topic_prefix
        )
        self._watchdog = Watchdog(log, self._publisher, self._reports, settings.broker)
        #: When to check for entries without a number, in monotonic seconds.
        self._look_at = 0.0
        self._throttle = Throttle()
        self._waiting = Waiting(notifier, session)
        self._next_poll = 0.0

    def stop(self) -> None:
        """Ask the relay to stop; notify it to make it react at once. Safe to call from any thread."""
        self._stopping.set()

    def run(self, done: Callable[[], bool] | None = None) -> None:
        """Relay until stopped, or until `done`, which is called before each round, returns True.

        :raises LeadershipLostError: another process has taken over.
        :raises LogUnavailableError: the database can't be used; it holds all state that matters.
        """
        try:
            while not self._stopping.is_set() and not (done is not None and done()):
                self._round()
            if self._connection.is_open:
                self._say_goodbye()
        finally:
            self._session.close()
            self._inbox.stop(INBOX_STOP)
            self._auditor.stop()
            self._catchups.stop()
            self._publisher.compression.stop()
            self._traits.stop(GOODBYE)

    # -- one round --------------------------------------------------------------------------------

    def _round(self) -> None:
        try:
            if (attempt := self._connection.step()) is not None:
                self._attempt(attempt)
            unread, is_readable = self._wait()
            transactions = self._log.transactions
            served = Served()
            if self._session.fileno() is not None:
                events = self._session.receive() if is_readable else []
                for event in events:
                    self._take(event, unread)
                self._connection.acknowledged(events)
                if self._connection.is_accepted:
                    served = self._router.serve()
                    self._publisher.reported(served.reports)
                    self._restored.claims.take(served.claims)
            self._step(catchup_requested=served.requested)
            if self._session.fileno() is not None:
                self._session.flush()
            if self._log.transactions > transactions:
                self._throttle.wrote(self._log.locked_at, time.monotonic())
                self._log.tidy()
        except SessionMismatchError as error:
            self._log.require_clean_start()
            self._disconnected(error)
        except SessionError as error:
            self._disconnected(error)

    def _wait(self) -> tuple[float, bool]:
        """Wait until there is something to do; return for how long the socket was not read, and whether to read it now."""
        # While the relay rests, wake-ups and the socket are ignored: what arrives meanwhile shares the next step.
        rested_from = time.monotonic()
        if (rest := self._throttle.rest_until - rested_from) > 0 and self._stopping.wait(rest):
            return 0.0, True
        now = time.monotonic()
        ready = self._waiting.wait(max(0.0, self._wake_at - now))
        was_there = self._throttle.rest_until > rested_from and time.monotonic() - now < _AT_ONCE
        if ready.is_notified:
            self._look_at = min(self._look_at, self._throttle.look_from)
        if time.monotonic() >= self._next_poll:
            self._look_at = 0.0
            self._next_poll = time.monotonic() + POLL_INTERVAL
            self._retention.step()
            self._publisher.compression.mind()
            if self._connection.is_open:
                self._router.mind()
                self._reports.refresh(asked=self._router.status_is_due())
                self._watchdog.check(time.monotonic())
                found = self._traits.step(self._publisher.handshakes.waits)
                if found is not None:
                    self._publisher.handshakes.learnt(found)
        return now - rested_from if was_there else 0.0, ready.is_readable

    @property
    def _wake_at(self) -> float:
        """When there is something to do even if nothing happens before, in monotonic seconds."""
        if self._connection.is_open and self._publisher.can_send:
            return -math.inf
        parts = (self._publisher, self._connection, self._router)
        return min(self._next_poll, self._look_at, *(part.wake_at for part in parts))

    def _announce(self) -> None:
        """Publish the first messages of a connection: the status, and a claim if another client may use our id."""
        self._reports.announce(again=self._restored.claims.answer_due())
        if self._connection.claim_due and self._publisher.has_room_beside:
            self._connection.publish_claim()

    def _step(self, *, catchup_requested: bool) -> None:
        now = time.monotonic()
        look = now >= self._look_at
        if look:
            self._throttle.looked(now)
        # Before the publisher uses the room in the window: with a long queue it leaves none.
        if self._connection.is_open:
            self._announce()
            self._reports.publish_digest()
        step = self._publisher.step(
            look=look, most=self._throttle.most(now), catchup_requested=catchup_requested
        )
        if step.digest_wanted:
            self._auditor.request()
            self._auditor.step()
        if look:
            self._look_at = 0.0 if step.more else math.inf
            self._throttle.committed(step.committed, now)

    def _take(self, event: SessionEvent, unread: float = 0.0) -> None:
        """Process an event of the session.

        :param unread: seconds for which the socket was not read before it.
        """
        match event:
            case Connected():
                self._accepted(event)
            case LookedBack():
                self._looked_back()
            case Ack():
                self._publisher.acknowledged(event, unread)
                self._reports.acknowledged(event)
            case Subscribed():
                self._router.answered(event)
            case Received():
                if self._connection.take_claim(event):
                    return
                if self._connection.state is State.LOOKING_BACK and self._restored.take(event):
                    if self._restored.is_proved:
                        self._looked_back()
                    return
                self._router.take(event)
                signals.send(
                    signals.message, self._sender, topic=event.topic, payload=event.payload
                )

    # -- connection -------------------------------------------------------------------------------

    def _attempt(self, attempt: Attempt) -> None:
        # The fence is checked before each CONNECT: a paused former owner notices here that it was replaced,
        # instead of taking the session from its successor.
        with self._log.fenced_transaction() as fenced:
            if attempt.number:
                fenced.count({(RECONNECTS, "", "", ""): 1})
            fenced.attempts(attempt.number, attempt.reason)
        if attempt.is_logged:
            logger.info(
                "[MQTT Reliable Sync] reconnecting (attempt %d, queue: %d), because %s",
                attempt.number,
                self._publisher.depth,
                attempt.says,
                extra={"attempt": attempt.number, "broker": str(self._settings.broker)},
            )
        self._connection.connect(
            will_topic=self._reports.topic,
            will=self._reports.encode("offline"),
            clean_start=self._log.clean_start,
        )

    def _accepted(self, connected: Connected) -> None:
        self._router.begin(connected)
        if not self._connection.accepted(connected):
            self._compared()

    def _looked_back(self) -> None:
        self._connection.looked_back()
        self._compared()

    def _compared(self) -> None:
        verdict = self._restored.compare()
        self._opened(self._connection.open(look_again=verdict.again, refused=verdict.reason))

    def _opened(self, opened: Opened) -> None:
        connected = opened.connected
        self._publisher.begin(connected, self._traits.opened(connected))
        with self._log.fenced_transaction() as fenced:
            fenced.connection_changed(True, protocol=connected.protocol, attempts=0, reason=None)
            self._publisher.budget.save(fenced)
            note_link(fenced, True, self._log.generation)
            self._traits.save(fenced.connection)
        self._watchdog.begin()
        self._log.session_began()
        self._reports.begin()
        self._router.opened(connected, looked_back=opened.looked_back)
        logger.info(
            "[MQTT Reliable Sync] connected to %s (MQTT %s, session %s, queue: %d)",
            self._settings.broker,
            connected.protocol,
            "resumed" if connected.session_present else "new",
            self._publisher.depth,
            extra={"generation": self._log.generation},
        )
        signals.send(
            signals.connected,
            self._sender,
            session_present=connected.session_present,
            protocol=connected.protocol,
        )

    def _disconnected(self, error: SessionError) -> None:
        if self._connection.is_open:
            # Journals what was acknowledged before the end, so that it is not sent again.
            self._publisher.step(look=False, feed=False)
        self._router.lost()
        quiet = self._publisher.is_quiet
        closed = self._connection.ended(error, self._session.client.idle_time if quiet else None)
        closed.log(self._settings.broker)
        self._publisher.lost(closed.error)
        reason = str(closed.error)
        if closed.was_open:
            with self._log.fenced_transaction() as fenced:
                fenced.connection_changed(
                    False, protocol=None, attempts=closed.attempts, reason=reason
                )
                note_link(fenced, False, self._log.generation, reason)
                self._publisher.budget.save(fenced)
            signals.send(signals.disconnected, self._sender, reason=reason)
        else:
            # Also a reason that is no news: health must not show an earlier one until the next attempt.
            with self._log.fenced_transaction() as fenced:
                fenced.attempts(closed.attempts, reason)
        signals.send(signals.error, self._sender, error=closed.error)

    def _say_goodbye(self) -> None:
        """Publish `offline`, wait for its acknowledgement and others still due, and disconnect."""
        deadline = time.monotonic() + GOODBYE
        try:
            status_id: int | None = None
            taken = False
            while not taken and (left := deadline - time.monotonic()) > 0:
                if status_id is None and self._publisher.has_room:
                    status_id = self._reports.publish("offline")
                self._session.flush()
                sock = self._session.fileno()
                if sock is None or not _readable(sock, left):
                    break
                for event in self._session.receive():
                    self._take(event)
                    taken = taken or (isinstance(event, Ack) and event.packet_id == status_id)
            self._publisher.step(look=False, feed=False)
            with self._log.fenced_transaction() as fenced:
                fenced.connection_changed(False, protocol=None, attempts=0, reason="stopped")
                note_link(fenced, False, self._log.generation, "stopped")
                self._publisher.budget.save(fenced)
            self._session.say_goodbye(deadline)
        except SessionError as error:
            self._disconnected(error)
        else:
            signals.send(signals.disconnected, self._sender, reason="stopped")


def _readable(sock: int, timeout: float) -> bool:
    # Not select(): it fails for descriptors of 1024 and above.
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
