"""The relay: one thread that drives both the change log and the socket.

Each round waits for the socket or the bell, takes what the broker says, and runs one turn of the flow. There
is no lock, no queue between threads and no callback: what a round does not finish, the next one does. And
whatever dies, and whenever, the log says which packets the broker may have seen.
"""

from __future__ import annotations

import logging
import math
import random
import select
import threading
import time
from collections.abc import Sequence
from typing import Any

import orjson

from . import signals
from .audit import Auditor
from .bell import BellListener
from .brokers import read_broker, save_broker
from .catchup import Catchups
from .changelog import ChangeLog
from .codec import Ack
from .counters import RECONNECTS
from .errors import ConnectionLostError, ProtocolRefusedError, SessionError, TakenOverError
from .flow import Flow
from .history import note_link
from .inbox import Inbox
from .intake import Intake
from .message import encode_status, now_ms
from .pace import Pace
from .probe import HandshakeProbe, settle_version
from .registry import Registry
from .retention import Retention
from .rivals import STAND_DOWN, Rivals
from .session import Connected, LookedBack, Received, Session, SessionEvent, Subscribed
from .settings import Settings
from .topics import DIGEST, PROBE, STATUS, level_of

logger = logging.getLogger(__name__)

# Of our own: the process's shared generator may be somebody's seeded one.
_chance = random.Random()

#: Seconds between two looks at the log when the bell is silent.
POLL_INTERVAL = 1.0
#: Times that changes had to wait for a handshake of MQTT 3.1.1 before it is found out how many the broker takes.
WORTH_A_PROBE = 5
#: Seconds before that is tried again when it could not be found out.
PROBE_INTERVAL = 60.0
#: Seconds that a stop waits for the broker to take the last message.
GOODBYE = 1.0
#: Seconds that a stop waits for a handler of the application to return.
INBOX_STOP = 2.0
#: Seconds within which a poll returns when there is nothing to wait for.
_AT_ONCE = 0.001
#: Seconds between two statuses of a connection that tell followers how far the log has come.
HEARTBEAT = 60.0


class Relay:
    """Moves changes from the log to the broker while this process owns the session.

    :param sender: the sender of signals: the application.
    :param topics: all topics under the prefix on which changes are published.
    :param urgent: topics that pass others while there is a queue.
    :param registry: what is synchronised.
    :param catchups: expands what receivers have missed.
    :param inbox: takes what comes in.
    :param auditor: digests the tables.
    """

    def __init__(
        self,
        log: ChangeLog,
        session: Session,
        bell: BellListener,
        settings: Settings,
        *,
        sender: Any,
        topics: Sequence[str] = (),
        urgent: frozenset[str] = frozenset(),
        registry: Registry,
        catchups: Catchups,
        inbox: Inbox,
        auditor: Auditor,
    ) -> None:
        self._log = log
        self._session = session
        self._bell = bell
        self._settings = settings
        self._sender = sender
        self._flow = Flow(
            log,
            session,
            prefix=settings.topic_prefix,
            max_inflight=settings.max_inflight,
            max_queue_size=settings.max_queue_size,
            urgent=urgent,
            catchups=catchups,
            sender=sender,
        )
        self._retention = Retention(
            log, days=settings.retention_days, bound=settings.max_queue_size
        )
        self._stopping = threading.Event()
        #: Topics whose retained messages tell what this vessel has published before.
        self._own_topics = [f"{settings.topic_prefix}/{topic}" for topic in (STATUS, *topics)]
        self._inbox = inbox
        self._auditor = auditor
        self._intake = Intake(
            log,
            session,
            inbox,
            auditor,
            registry,
            prefix=settings.topic_prefix,
            own=self._own_topics,
        )
        self._known = read_broker(log.connection, str(settings.broker))
        session.negotiation.found = self._known.found
        self._rivals = Rivals(session.client_id, settings.topic_prefix, settings.reconnect_period)
        self._probe: HandshakeProbe | None = None
        self._probe_from = 0.0
        #: A status and a claim of the client id that wait for room.
        self._status_due = False
        self._claim_due = False
        #: A digest that waits for room.
        self._digest: bytes | None = None
        #: The number and the depth in the last status, and when it was sent, in monotonic seconds.
        self._told = (0, 0)
        self._told_at = 0.0
        #: The first connection of this owner, while it is asked for these.
        self._looking_back: Connected | None = None
        self._looked_back = False
        #: The highest of our own numbers that the broker has shown.
        self._seen_seq = 0
        self._connected = False
        #: Monotonic seconds until which CONNACK may take; None while no connection is being opened.
        self._connecting_until: float | None = None
        self._next_attempt = 0.0
        #: Why attempts have failed since the last connection, and why the last one did.
        self._reasons: set[str] = set()
        self._reason: str | None = None
        #: Connection attempts since the last connection.
        self._attempts = 0
        #: Monotonic seconds at which to look for entries that wait for a number.
        self._look_at = 0.0
        self._pace = Pace()
        self._next_poll = 0.0
        # The keepalive is looked after at each poll: a short one is not to be missed.
        self._poll_interval = min(POLL_INTERVAL, settings.keepalive / 4)

    def stop(self) -> None:
        """Ask the relay to end; ring the bell to be heard at once. Safe from any thread."""
        self._stopping.set()

    def run(self) -> None:
        """Relay until stopped.

        :raises OwnershipLostError: another process has taken over.
        :raises LogUnavailableError: the database can't be used; all that counts is in it.
        """
        try:
            while not self._stopping.is_set():
                self._round()
            if self._connected:
                self._say_goodbye()
        finally:
            self._session.close()
            self._inbox.stop(INBOX_STOP)
            self._auditor.stop()
            if self._probe is not None:
                self._probe.give_up(GOODBYE)

    # -- one round --------------------------------------------------------------------------------

    def _round(self) -> None:
        try:
            self._mind_the_connection()
            self._wait()
            turns = self._log.turns
            if self._session.fileno() is not None:
                for event in self._session.receive():
                    self._take(event)
                if self._intake.serve():
                    self._flow.look_for_catchups()
            self._turn()
            if self._session.fileno() is not None:
                self._session.flush()
            if self._log.turns > turns:
                self._pace.wrote(self._log.locked_at, time.monotonic())
                self._log.tidy()
        except SessionError as error:
            self._disconnected(error)

    def _wait(self) -> None:
        # Deaf to the bell and the broker alike: what they say meanwhile shares the next turn.
        rested_from = time.monotonic()
        if self._stopping.wait(max(0.0, self._pace.rest_until - rested_from)):
            return
        now = time.monotonic()
        wake_at = min(self._next_poll, self._flow.wake_at)
        if self._connecting_until is not None:
            wake_at = min(wake_at, self._connecting_until)
        elif not self._connected:
            wake_at = min(wake_at, self._next_attempt)
        wake_at = min(wake_at, self._look_at)
        busy = self._connected and self._flow.can_send
        poll = select.poll()
        poll.register(self._bell.fileno(), select.POLLIN)
        sock = self._session.fileno()
        if sock is not None:
            poll.register(
                sock, select.POLLIN | (select.POLLOUT if self._session.wants_write else 0)
            )
        ready = poll.poll(0 if busy else max(0.0, wake_at - now) * 1000)
        was_there = self._pace.rest_until > rested_from and time.monotonic() - now < _AT_ONCE
        self._flow.deaf = now - rested_from if was_there else 0.0
        if any(fd == self._bell.fileno() for fd, _ in ready) and self._bell.answer():
            self._look_at = min(self._look_at, self._pace.look_from)
        if time.monotonic() >= self._next_poll:
            self._look_at = 0.0
            self._next_poll = time.monotonic() + self._poll_interval
            self._retention.step()
            if self._connected:
                self._intake.mind()
                self._report()
                self._mind_the_broker()

    def _report(self) -> None:
        """Tell followers how far the log has come, and what the tables are."""
        self._digest = self._auditor.take() or self._digest
        if self._digest is not None and not self._flow.fits(DIGEST, self._digest):
            logger.error(
                "[MQTT Reliable Sync] the digest of the tables is larger than the broker takes (%d bytes)",
                len(self._digest),
            )
            self._digest = None
        # With nothing pending a follower may take the heads at their word, so that is news too.
        news = not self._flow.depth and (self._log.head_seq, 0) != self._told
        if news and time.monotonic() - self._told_at >= HEARTBEAT and self._flow.has_room:
            self._publish_status("online")

    def _publish_digest(self) -> None:
        if self._digest is not None and self._connected and self._flow.has_room:
            topic = f"{self._settings.topic_prefix}/{DIGEST}"
            self._session.publish_beside(topic, self._digest, retain=True)
            self._digest = None

    def _announce(self) -> None:
        """Publish what a connection begins with: the status, and a claim where another client may use our id."""
        if self._status_due and self._flow.handshakes.has_room:
            self._status_due = False
            self._publish_status("online")
        if self._claim_due and self._flow.handshakes.has_room:
            self._claim_due = False
            self._session.publish_beside(self._rivals.topic, self._rivals.claim(), retain=True)

    def _publish_status(self, status: str) -> int:
        self._told, self._told_at = (self._log.head_seq, self._flow.depth), time.monotonic()
        return self._session.publish_beside(self._status_topic, self._status(status), retain=True)

    def _turn(self) -> None:
        now = time.monotonic()
        look = now >= self._look_at
        if look:
            self._pace.looked(now)
        # Before the flow takes what room there is: while much is waiting it leaves none.
        if self._connected:
            self._announce()
        self._publish_digest()
        more = self._flow.turn(look=look, most=self._pace.most(now))
        if self._flow.digest_wanted():
            self._auditor.request()
            self._auditor.step()
        if look:
            self._look_at = 0.0 if more else math.inf
            self._pace.committed(self._flow.committed, now)

    def _take(self, event: SessionEvent) -> None:
        match event:
            case Connected():
                self._answered(event)
            case LookedBack():
                self._compare()
            case Ack():
                self._flow.acknowledged(event)
            case Subscribed():
                self._intake.answered(event)
            case Received():
                if self._looking_back is not None and self._note_own(event):
                    return
                self._intake.take(event)
                signals.send(
                    signals.message, self._sender, topic=event.topic, payload=event.payload
                )

    # -- the broker -------------------------------------------------------------------------------

    def _mind_the_broker(self) -> None:
        """Note what the broker shows of itself, and find out what it does not say."""
        self._flow.mind(time.monotonic())
        if self._flow.lowers_qos and not self._known.lowers_qos:
            self._known.lowers_qos = True
            self._save_known()
        if self._probe is None:
            if self._probe_is_due():
                client_id, prefix = self._session.client_id, self._settings.topic_prefix
                topic = f"{prefix}/{PROBE}/{level_of(client_id)}"
                self._probe = HandshakeProbe(self._settings, client_id, topic)
                self._probe.start()
        elif not self._probe.is_alive():
            found, self._probe = self._probe.found, None
            self._probe_from = time.monotonic() + PROBE_INTERVAL
            if found is not None and not self._session.v5:
                self._known.allowance, self._known.allowance_at = found, now_ms()
                self._flow.handshakes.learnt(found)
                self._save_known()

    def _probe_is_due(self) -> bool:
        return (
            not self._session.v5
            and self._flow.handshakes.waits >= WORTH_A_PROBE
            and self._known.allows(now_ms()) is None
            and time.monotonic() >= self._probe_from
        )

    def _save_known(self) -> None:
        with self._log.turn() as turn:
            save_broker(turn.connection, self._known)

    # -- connection -------------------------------------------------------------------------------

    def _mind_the_connection(self) -> None:
        now = time.monotonic()
        if self._connected:
            self._session.keep_alive()
        elif self._connecting_until is not None:
            if now >= self._connecting_until:
                raise ConnectionLostError("the broker did not answer CONNECT in time")
        elif now >= self._next_attempt:
            self._attempt()

    def _attempt(self) -> None:
        # The fence comes before each CONNECT: a paused ex-owner finds out here that it was replaced,
        # not by taking the session from its successor.
        with self._log.turn() as turn:
            if self._attempts:
                turn.count({(RECONNECTS, "", "", ""): 1})
            turn.attempts(self._attempts, self._reason)
        if _is_logged(self._attempts):
            logger.info(
                "[MQTT Reliable Sync] reconnecting (attempt %d, queue: %d)",
                self._attempts,
                self._flow.depth,
                extra={"attempt": self._attempts, "broker": str(self._settings.broker)},
            )
        settle_version(self._session, self._settings, self._stopping.is_set)
        self._session.connect(
            will_topic=self._status_topic,
            will=self._status("offline"),
            clean_start=self._log.clean_start,
        )
        self._connecting_until = time.monotonic() + self._settings.connect_timeout

    def _answered(self, event: Connected) -> None:
        """CONNACK has come. An owner's first connection is first asked what the broker has of us."""
        self._intake.begin()
        self._rivals.accepted(time.monotonic())
        topics = [] if self._looked_back else list(self._own_topics)
        if self._rivals.suspicious:
            topics.append(self._rivals.topic)
        if not topics:
            self._opened(event, looked_back=False)
            return
        self._looking_back = event
        self._seen_seq = 0
        self._session.look_back(topics)

    def _note_own(self, received: Received) -> bool:
        """Take an answer to the look-back; return whether it was one."""
        if received.topic == self._rivals.topic:
            self._rivals.heard(received.payload)
            return True
        if received.topic not in self._own_topics:
            return False
        self._seen_seq = max(self._seen_seq, self._own_seq(received.payload))
        return received.qos == 0

    def _own_seq(self, payload: bytes) -> int:
        """Return the number in a message of this vessel and epoch; 0 for anything else."""
        try:
            body = orjson.loads(payload)
        except orjson.JSONDecodeError:
            return 0
        if not isinstance(body, dict) or body.get("vesselId") != self._log.vessel_id:
            return 0
        seq = body.get("seq")
        return seq if body.get("epoch") == self._log.epoch and isinstance(seq, int) else 0

    def _compare(self) -> None:
        event, self._looking_back = self._looking_back, None
        if event is None:
            return
        self._rivals.check()
        looked_back, self._looked_back = not self._looked_back, True
        if self._seen_seq <= self._log.head_seq:
            self._opened(event, looked_back=looked_back)
            return
        seen, head = self._seen_seq, self._log.head_seq
        self._log.begin_epoch()
        logger.error(
            "[MQTT Reliable Sync] the broker holds change %d of this vessel, but the log ends at %d: the"
            " database was restored from an older copy. A new epoch begins; followers must fetch all anew",
            seen,
            head,
            extra={"epoch": self._log.epoch},
        )
        raise ConnectionLostError("a new epoch needs a new session")

    def _opened(self, event: Connected, *, looked_back: bool) -> None:
        self._connected = True
        self._connecting_until = None
        self._attempts = 0
        self._reasons.clear()
        self._reason = None
        self._known.found = self._session.negotiation.found
        if not event.session_present:
            self._known.allowance = None  # the broker was started anew, maybe with other settings
        self._flow.begin(event, self._known.allows(now_ms()))
        with self._log.turn() as turn:
            turn.connection_changed(True, protocol=event.protocol, attempts=0, reason=None)
            note_link(turn, True, self._log.generation)
            save_broker(turn.connection, self._known)
        self._log.clean_start = False
        self._status_due = True
        self._claim_due = self._rivals.suspicious
        self._intake.opened(event, looked_back=looked_back)
        logger.info(
            "[MQTT Reliable Sync] connected to %s (MQTT %s, session %s, queue: %d)",
            self._settings.broker,
            event.protocol,
            "resumed" if event.session_present else "new",
            self._flow.depth,
            extra={"generation": self._log.generation},
        )
        signals.send(
            signals.connected,
            self._sender,
            session_present=event.session_present,
            protocol=event.protocol,
        )

    def _disconnected(self, error: SessionError) -> None:
        was_connected, self._connected = self._connected, False
        if was_connected:
            # What was acknowledged before the end need not go again.
            self._flow.turn(look=False, feed=False)
        self._looking_back = None
        self._intake.lost()
        self._session.close()
        self._connecting_until = None
        self._attempts += 1
        jitter = _chance.uniform(0.8, 1.0)  # spreads a fleet's attempts, guards nothing
        pause = self._settings.reconnect_period * jitter
        if isinstance(error, ProtocolRefusedError):
            pause = 0.0  # it is there, and was only asked in the wrong version
        if self._rivals.ended(error, time.monotonic()):
            # Somebody else uses our client id. Where it is another process of this vessel, the next
            # attempt's fence says so; where it is not, two that reconnect at once would never stop.
            pause = max(pause, STAND_DOWN)
            error = TakenOverError(self._session.client_id)
            logger.error("[MQTT Reliable Sync] %s; standing down for %d s", error, STAND_DOWN)
        self._next_attempt = time.monotonic() + pause
        # Each reason is said once: a broker that is there again but refuses us is news.
        news = was_connected or str(error) not in self._reasons
        self._reasons.add(str(error))
        self._reason = str(error)
        level = logging.WARNING if news else logging.DEBUG
        logger.log(
            level,
            "[MQTT Reliable Sync] %s",
            error,
            extra={"broker": str(self._settings.broker), "attempt": self._attempts},
        )
        self._flow.lost(error)
        if was_connected:
            with self._log.turn() as turn:
                turn.connection_changed(
                    False, protocol=None, attempts=self._attempts, reason=str(error)
                )
                note_link(turn, False, self._log.generation, str(error))
            signals.send(signals.disconnected, self._sender, reason=str(error))
        elif news:
            with self._log.turn() as turn:
                turn.attempts(self._attempts, self._reason)
        signals.send(signals.error, self._sender, error=error)

    def _say_goodbye(self) -> None:
        """Publish `offline`, wait for its acknowledgement and those on their way, and disconnect."""
        deadline = time.monotonic() + GOODBYE
        try:
            status_id: int | None = None
            taken = False
            while not taken and (left := deadline - time.monotonic()) > 0:
                if status_id is None and self._flow.has_room:
                    status_id = self._publish_status("offline")
                self._session.flush()
                sock = self._session.fileno()
                if sock is None or not _readable(sock, left):
                    break
                for event in self._session.receive():
                    self._take(event)
                    taken = taken or (isinstance(event, Ack) and event.packet_id == status_id)
            self._flow.turn(look=False, feed=False)
            with self._log.turn() as turn:
                turn.connection_changed(False, protocol=None, attempts=0, reason="stopped")
                note_link(turn, False, self._log.generation, "stopped")
            self._session.say_goodbye(deadline)
        except SessionError as error:
            self._disconnected(error)
        else:
            self._connected = False
            signals.send(signals.disconnected, self._sender, reason="stopped")

    @property
    def _status_topic(self) -> str:
        return f"{self._settings.topic_prefix}/{STATUS}"

    def _status(self, status: str) -> bytes:
        return encode_status(
            status,
            vessel_id=self._log.vessel_id,
            generation=self._log.generation,
            epoch=self._log.epoch,
            seq=self._log.head_seq,
            topics={lane.topic: lane.head_seq for lane in self._log.lanes.values()},
            pending=self._flow.depth,
            at=now_ms(),
        )


def _is_logged(attempt: int) -> bool:
    """The first ten attempts, then each tenth up to a hundred, then each hundredth."""
    every = 1 if attempt <= 10 else 10 if attempt <= 100 else 100
    return attempt > 0 and attempt % every == 0


def _readable(sock: int, timeout: float) -> bool:
    # Not select(): it fails for descriptors from 1024 on.
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
