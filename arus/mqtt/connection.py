"""The connection state machine of relay and follower: when to connect, and how to react to events.

    WAITING ──connect──> CONNECTING ──accepted──> [LOOKING_BACK ──looked_back──>] open ──> OPEN
       ^                     │                          │                                   │
       └─────────────────────┴───────── ended ──────────┴───────────────────────────────────┘

The loops ask it what is due, report events to it, and get back facts that they may journal, log or signal. It
never sleeps, and has no access to the log, the tables or the socket, only to a clock, a random generator and the
session.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable
from enum import Enum

from msgspec import Struct

from arus.errors import (
    ONE_ID_EACH,
    ConnectionLostError,
    ProtocolRefusedError,
    SessionError,
    TakenOverError,
)
from arus.logs import get_logger
from arus.settings import Broker, Settings

from .back_off import BackOff
from .client import Session
from .diagnosis import Diagnosis
from .events import Connected, Received, SessionEvent
from .failures import unanswered
from .idle_closes import IdleCloses, IdleTime
from .meter import Kind
from .packets import Ack
from .probe import settle
from .refusals import REFUSED
from .rivals import STAND_DOWN, Rivals

logger = get_logger(__name__)

#: The pause between two attempts as a random part of the reconnect period: it spreads a fleet's attempts.
JITTER = (0.8, 1.0)
#: Seconds that the end of a connection which must not open may take.
GOODBYE = 1.0
#: Look-backs in a row to which a broker sends nothing before a connection opens without one.
UNANSWERED = 3

#: What to look at if the broker closes connections before it has acknowledged anything.
_FORBIDDEN = (
    "if it does so each time, before it has acknowledged anything, allow the vessel to publish and to subscribe under its"
    " prefix"
)

#: Connections in a row that the broker closes soon before that is said to look like another client with our client id,
#: and what to do then. It need not be: a broker may hide the other's claim from us (`arus.mqtt.rivals`).
SOON_CLOSES = 6
_PERHAPS_A_RIVAL = (
    "if it does so again and again, see at the broker if another client uses the client id {client_id}, and "
    + ONE_ID_EACH
)


class State(Enum):
    """The state of a connection."""

    #: There is none; the next attempt is scheduled.
    WAITING = "waiting"
    #: CONNECT was sent and not answered.
    CONNECTING = "connecting"
    #: The broker has accepted it; its retained messages are read first.
    LOOKING_BACK = "looking back"
    #: Messages may be published.
    OPEN = "open"


class Attempt(Struct, frozen=True):
    """A connection attempt is due."""

    #: Attempts that have failed since the last connection.
    number: int
    #: Why the last of them failed, and what to do about it.
    reason: str | None

    @property
    def says(self) -> str:
        """Why the last of them failed."""
        return Diagnosis.parse(self.reason or "").says

    @property
    def is_logged(self) -> bool:
        """Whether to log it: the first ten retries, then each tenth up to a hundred, then each hundredth."""
        every = 1 if self.number <= 10 else 10 if self.number <= 100 else 100
        return self.number > 0 and self.number % every == 0


class Opened(Struct, frozen=True):
    """A connection is open."""

    #: The broker's answer.
    connected: Connected
    #: Its retained messages of the topics of `Connection` were read first.
    looked_back: bool


class Closed(Struct, frozen=True):
    """A connection has ended, or could not be made."""

    #: Why; a takeover is always a TakenOverError.
    error: SessionError
    #: It was open.
    was_open: bool
    #: Attempts that have failed since the last connection, this one included.
    attempts: int
    #: Seconds until the next one.
    pause: float
    #: Another client uses our client id: this one does not reconnect for a while.
    stands_down: bool
    #: This reason is new since the last connection.
    is_news: bool

    def log(self, broker: Broker) -> None:
        """Log the error: each reason once between two connections, repetitions at debug level only."""
        if self.stands_down:
            logger.error("[MQTT Reliable Sync] %s; standing down for %d s", self.error, self.pause)
        logger.log(
            logging.WARNING if self.is_news else logging.DEBUG,
            "[MQTT Reliable Sync] %s",
            self.error,
            extra={"broker": str(broker), "attempt": self.attempts},
        )


class Connection:
    """The connections of one session, one after another.

    :param look_back: topics whose retained messages are read before the first connection opens.
    :param stopping: returns whether to abort long operations.
    :param clock: returns monotonic seconds.
    :param settle: finds out what a broker speaks and supports that does not answer; called with the session, the
        settings and `stopping`.
    """

    def __init__(
        self,
        session: Session,
        settings: Settings,
        *,
        look_back: Iterable[str] = (),
        stopping: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        settle: Callable[[Session, Settings, Callable[[], bool]], None] = settle,
    ) -> None:
        self._session = session
        self._settings = settings
        #: Topics whose retained messages are still to be read, and all of them.
        self._topics = list(look_back)
        self._all_topics = tuple(self._topics)
        self._stopping = stopping
        self._clock = clock
        # A generator of its own: the application may have seeded the shared one.
        self._rng = rng or random.Random()
        self._settle = settle
        self._rivals = Rivals(session.client_id, settings.topic_prefix, settings.reconnect_period)
        self._idle_closes = IdleCloses(settings.keepalive)
        self._back_off = BackOff(settings.reconnect_period)
        self._state = State.WAITING
        #: When the next attempt is due, and until when the broker must answer. Monotonic seconds.
        self._next_attempt = -math.inf
        self._deadline = math.inf
        #: Failed attempts since the last connection, all their reasons, and the reason of the last one.
        self._attempts = 0
        self._reasons: set[str] = set()
        self._reason: str | None = None
        #: The broker's answer to CONNECT.
        self._connected: Connected | None = None
        #: This connection reads the retained messages of `_topics` first.
        self._looks_back = False
        #: Look-backs in a row to which the broker has sent nothing, and whether it has sent a message in this one.
        self._unanswered = 0
        self._is_answered = False
        #: The broker has acknowledged a message in this connection.
        self._is_acknowledged = False
        self._claim_due = False
        #: The session is subscribed to our own claim, and the packet id of the one that is left unacknowledged.
        self._is_marked = False
        self._held_claim: int | None = None

    @property
    def state(self) -> State:
        """The state of the connection."""
        return self._state

    @property
    def is_open(self) -> bool:
        """Whether messages may be published."""
        return self._state is State.OPEN

    @property
    def is_accepted(self) -> bool:
        """Whether the broker has accepted it, so that its messages may be acknowledged."""
        return self._state is State.OPEN or self._state is State.LOOKING_BACK

    @property
    def wake_at(self) -> float:
        """The latest time for the next call of `step`; monotonic seconds."""
        if self._state is State.WAITING:
            return self._next_attempt
        if self._state is State.CONNECTING:
            return self._deadline
        ping_due_at = self._session.ping_due_at
        return ping_due_at if self.is_open else min(self._deadline, ping_due_at)

    # -- what is due --------------------------------------------------------------------------------

    def step(self) -> Attempt | None:
        """Keep an open connection alive; return the attempt that is due, for `connect`.

        :raises SessionError: the broker does not answer.
        """
        if self._state is State.WAITING:
            if self._clock() >= self._next_attempt:
                return Attempt(self._attempts, self._reason)
        elif self._state is State.CONNECTING:
            if self._clock() >= self._deadline:
                silent = unanswered(self._settings, hung_up=False)
                raise ConnectionLostError(silent.says, fix=silent.fix)
        else:
            self._session.keep_alive()
            if self._held_claim is not None and self._rivals.is_past(self._clock()):
                self._hold_claim(None)
            if self._state is State.LOOKING_BACK:
                self._check_look_back()
        return None

    def _check_look_back(self) -> None:
        """Extend the time for retained messages as long as something arrives.

        :raises ConnectionLostError: nothing has arrived for the connect timeout.
        """
        heard_at = self._session.heard_at
        self._deadline = max(self._deadline, heard_at + self._settings.connect_timeout)
        if self._clock() >= self._deadline:
            self._unanswered = 0 if self._is_answered else self._unanswered + 1
            raise ConnectionLostError("the broker did not send its retained messages in time")

    def connect(
        self, *, clean_start: bool, will_topic: str | None = None, will: bytes | None = None
    ) -> None:
        """Make the attempt that is due; may block for some seconds.

        :param clean_start: make the broker discard its half of the session.
        :raises SessionError: the attempt has failed.
        """
        self._settle(self._session, self._settings, self._stopping)
        self._session.connect(clean_start=clean_start, will_topic=will_topic, will=will)
        self._state = State.CONNECTING
        self._deadline = self._clock() + self._settings.connect_timeout

    # -- events -------------------------------------------------------------------------------------

    def accepted(self, connected: Connected) -> bool:
        """Note the broker's answer to CONNECT; return whether a look-back comes first, else call `open`.

        :raises ConnectionLostError: it has answered before.
        """
        if self._state is not State.CONNECTING:
            raise ConnectionLostError("the broker answered CONNECT twice")
        self._connected = connected
        self._is_acknowledged = False
        self._rivals.accepted(self._clock())
        topics = [*self._topics, self._rivals.topic] if self._rivals.suspicious else self._topics
        self._state = State.LOOKING_BACK
        looks_back = bool(topics) and not self._gives_up_looking_back()
        self._looks_back = looks_back and bool(self._topics)
        if looks_back:
            self._is_answered = False
            self._deadline = self._clock() + self._settings.connect_timeout
            self._session.look_back(topics)
        return looks_back

    def _gives_up_looking_back(self) -> bool:
        if self._unanswered < UNANSWERED:
            return False
        # The next connection tries it again: a bad link must not switch off the look-back for good.
        self._unanswered = UNANSWERED - 1
        logger.warning(
            "[MQTT Reliable Sync] %s accepts connections and does not answer UNSUBSCRIBE: this connection opens without"
            " reading retained messages, so a database restored from an older copy is not noticed",
            self._settings.broker,
        )
        return True

    def take_claim(self, received: Received) -> bool:
        """Note a message of the broker; return whether it was a claim to the client id.

        :raises TakenOverError: another client uses our client id.
        """
        if self._state is State.LOOKING_BACK:
            self._is_answered = True
            if received.retain and received.topic in self._topics:
                # It need not be read again if this look-back does not end.
                self._topics.remove(received.topic)
        if not self._rivals.is_claim(received.topic):
            return False
        if received.topic != self._rivals.topic:
            self._rivals.heard_elsewhere()
        elif self._state is State.LOOKING_BACK:
            self._rivals.heard(received.payload)
        if received.packet_id:
            if self._rivals.holds(received.payload):
                self._hold_claim(received.packet_id)
            else:
                self._session.acknowledge(received.packet_id)
        return True

    def _hold_claim(self, packet_id: int | None) -> None:
        """Leave a claim unacknowledged, and acknowledge the one before it: brokers send a limited number at a time."""
        if self._held_claim not in {None, packet_id}:
            self._session.acknowledge(self._held_claim)
        self._held_claim = packet_id

    def looked_back(self) -> None:
        """Note that all retained messages were read; call `open` if this does not raise.

        :raises TakenOverError: another client uses our client id.
        """
        self._unanswered = 0
        self._rivals.check()
        self._topics = []

    def open(self, *, look_again: str | None = None, refused: str | None = None) -> Opened:
        """Open the connection for messages, or end it because of what the look-back has found.

        :param look_again: the topic with which the next connection begins to read all retained messages again; None
            if it need not.
        :param refused: why the connection must not open.
        :raises ConnectionLostError: with that reason.
        """
        if look_again is not None:
            others = (topic for topic in self._all_topics if topic != look_again)
            self._topics = [look_again, *others]
        if refused is not None:
            # With a DISCONNECT: the will would replace what the broker has retained of the status.
            self._session.say_goodbye(time.monotonic() + GOODBYE, unread=True)
            raise ConnectionLostError(refused)
        assert self._connected is not None, "the broker has not accepted it"
        self._state = State.OPEN
        self._attempts = 0
        self._reasons.clear()
        self._reason = None
        self._claim_due = self._rivals.suspicious
        if self._is_marked and not self._claim_due:
            self._is_marked = False
            self._session.forget([self._rivals.topic])
        return Opened(self._connected, self._looks_back)

    def ended(self, error: SessionError, idle: IdleTime | None = None) -> Closed:
        """Close a connection that has ended or could not be made, and schedule the next attempt.

        :param idle: for how long the connection has carried nothing; None if something was in flight.
        """
        was_open = self.is_open
        error = self._explained(error)
        idle_close = self._idle_close(error, idle if was_open else None)
        self._session.close()
        self._state = State.WAITING
        self._claim_due = False
        self._held_claim = None
        self._attempts += 1
        pause = self._settings.reconnect_period * self._rng.uniform(*JITTER)
        if isinstance(error, ProtocolRefusedError):
            pause = 0.0  # the broker is there; only the version was wrong
        pause = max(pause, self._back_off.ended(error))
        now = self._clock()
        stands_down = self._rivals.ended(error, now)
        if stands_down:
            # If the rival is another process of the same vessel, the fence detects it at the next attempt. If it
            # is not, two clients that reconnect at once would displace each other for ever.
            pause = max(pause, STAND_DOWN)
            error = TakenOverError(self._session.client_id)
        elif idle_close is not None:
            error = idle_close
        self._next_attempt = now + pause
        is_news = str(error) not in self._reasons
        self._reason = str(error)
        self._reasons.add(self._reason)
        return Closed(error, was_open, self._attempts, pause, stands_down, is_news)

    def _explained(self, error: SessionError) -> SessionError:
        """Add what may be wrong: in MQTT 3.1.1 a broker can only close the connection if it forbids a topic, or displaces us."""
        if not _is_untold(error) or not self.is_accepted:
            return error
        fix = None
        if self._all_topics and not self._is_acknowledged:
            fix = _FORBIDDEN
        elif self._rivals.in_a_row >= SOON_CLOSES:
            fix = _PERHAPS_A_RIVAL.format(client_id=self._session.client_id)
        return ConnectionLostError(error.says, hung_up=True, fix=fix) if fix else error

    def _idle_close(self, error: SessionError, idle: IdleTime | None) -> SessionError | None:
        """Return the error that says so if connections are closed because they carry nothing."""
        if not _is_untold(error) or idle is None:
            self._idle_closes.clear()
            return None
        found = self._idle_closes.closed(idle)
        if found is None:
            return None
        return ConnectionLostError(found.says, hung_up=True, fix=found.fix)

    def acknowledged(self, events: Iterable[SessionEvent]) -> None:
        """Note the events of a round: if the broker accepts a message, it is not asked too much."""
        if any(isinstance(event, Ack) and event.reason < REFUSED for event in events):
            self._is_acknowledged = True
            self._back_off.accepted()

    # -- the claim to the client id -----------------------------------------------------------------

    @property
    def claim_due(self) -> bool:
        """Whether a claim is to be published, so that another user of the client id can be detected."""
        return self._claim_due

    def publish_claim(self) -> None:
        """Publish a claim, and have the broker send it to whoever has our session."""
        self._claim_due = False
        self._is_marked = True
        self._session.ask([(self._rivals.topic, 1)])
        self._session.publish_beside(
            self._rivals.topic, self._rivals.claim(), retain=True, kind=Kind.CONNECTION
        )


def _is_untold(error: SessionError) -> bool:
    """Whether the broker's side has closed the connection without saying why."""
    return isinstance(error, ConnectionLostError) and error.hung_up and error.code is None
