"""Probes: short separate connections that find out facts that a broker does not report.

Each has its own client id and a session that ends with the connection, so that the vessel's session is not
touched and nothing remains at the broker if the link is cut.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from msgspec import structs

from arus.errors import ArusError, ConnectionLostError, RefusedError, SessionError
from arus.logs import get_logger
from arus.protocol.times import now_ms
from arus.protocol.topics import PROBE, level_of
from arus.settings import Settings

from .client import Session
from .events import Connected, Received, SessionEvent, Subscribed
from .features import EXACTLY_ONCE, QOS_NOT_SUPPORTED
from .handshakes import DEFAULT, Allowance
from .meter import Meter
from .negotiation import Version
from .packets import CONTROL_IDS, PUBACK, PUBREC, Ack
from .reason_codes import UNSUPPORTED_PROTOCOL
from .refusals import REFUSED

logger = get_logger(__name__)

#: How often a broker must accept 3.1.1 and not answer 5, or acknowledge QoS 1 and hang up on QoS 2, alternately: a
#: bad link does not behave like this.
ROUNDS = 6
#: Minimum wait for an answer to MQTT 5 in seconds, and the wait as a multiple of the time that 3.1.1 took.
PATIENCE = 1.0
SLOWNESS = 3
#: Bytes of payload of each message that counts handshakes: about the size of a change.
PROBE_SIZE = 512
#: Seconds within which released messages must come back.
_QUIET = 1.0
#: Seconds between two checks of whether to stop.
_LOOK = 0.2


def find_version(
    settings: Settings, client_id: str, stopping: Callable[[], bool]
) -> Version | None:
    """Find out whether a broker that does not answer MQTT 5 speaks 3.1.1; blocks for some seconds.

    :param stopping: returns whether to abort.
    :returns: None if inconclusive: the link is bad, or the broker does not answer at all.
    """

    def answers(version: Version, patience: float) -> bool | None:
        return _answers(version, settings, client_id, patience, stopping)

    return compare_versions(answers, settings.connect_timeout)


def compare_versions(
    answers: Callable[[Version, float], bool | None], connect_timeout: float
) -> Version | None:
    """Find out the same by `answers`, which tells whether a version is accepted within a time in seconds.

    A refusal that is not about the version decides nothing: `answers` returns None.
    """
    patience = connect_timeout
    for _ in range(ROUNDS):
        began = time.monotonic()
        if not answers("3.1.1", connect_timeout):
            return None
        patience = min(patience, max(PATIENCE, SLOWNESS * (time.monotonic() - began)))
        accepts_5 = answers("5", patience)
        if accepts_5 is not False:
            return "5" if accepts_5 else None
    return "3.1.1" if answers("3.1.1", connect_timeout) else None


#: Counts what the probes of a session send.
_meter: ContextVar[Meter | None] = ContextVar("meter", default=None)


def settle(session: Session, settings: Settings, stopping: Callable[[], bool]) -> None:
    """Find out, if due, what a broker speaks and supports that does not answer; blocks for some seconds."""
    _meter.set(session.meter)
    _settle_version(session, settings, stopping)
    if session.features.wants_trial():
        version = session.negotiation.choose(now_ms())
        maximum = find_qos(version, settings, session.client_id, stopping)
        session.features.tried(maximum, now_ms())


def _settle_version(session: Session, settings: Settings, stopping: Callable[[], bool]) -> None:
    if not session.negotiation.wants_trial(now_ms()):
        return
    found = find_version(settings, session.client_id, stopping)
    session.negotiation.tried(found, now_ms())
    if found == "3.1.1":
        logger.warning(
            "[MQTT Reliable Sync] %s does not answer MQTT 5 and accepts 3.1.1; speaking 3.1.1 for a day",
            settings.broker,
        )


def _answers(
    version: Version,
    settings: Settings,
    client_id: str,
    patience: float,
    stopping: Callable[[], bool],
) -> bool | None:
    """Whether the broker accepts a version; None if it answers with a refusal that is not about the version."""
    try:
        with _line(version, settings, client_id, patience, stopping):
            return True
    except RefusedError as error:
        return False if error.code == UNSUPPORTED_PROTOCOL else None
    except SessionError:
        return False


def find_qos(
    version: Version, settings: Settings, client_id: str, stopping: Callable[[], bool]
) -> int | None:
    """Find out whether a broker supports QoS 2; blocks for some seconds at most.

    :param stopping: returns whether to abort.
    :returns: the highest QoS that it supports; None if inconclusive: the link is bad.
    """
    for _ in range(ROUNDS):
        try:
            with _line(version, settings, client_id, settings.connect_timeout, stopping) as line:
                maximum = _accepted_qos(line, _topic(settings, client_id))
        except SessionError:
            return None
        if maximum is not None:
            return maximum
    return 1


def _accepted_qos(line: _Line, topic: str) -> int | None:
    """Publish at QoS 1, then at QoS 2.

    :returns: the highest QoS that the broker shows it supports; None if it acknowledges QoS 1 and hangs up on QoS 2.
    :raises SessionError: it does not answer, or the link was lost.
    """
    if line.connected is not None and line.connected.maximum_qos is not None:
        return max(1, line.connected.maximum_qos)
    first = CONTROL_IDS + 1
    began = time.monotonic()
    if line.publish(topic, first, qos=1).reason >= REFUSED:
        raise SessionError("the broker refuses the probe's topic")
    line.patience = min(line.patience, max(PATIENCE, SLOWNESS * (time.monotonic() - began)))
    line.publish(topic, first, qos=1)
    try:
        answer = line.publish(topic, first + 1, qos=EXACTLY_ONCE)
    except ConnectionLostError as error:
        if error.code == QOS_NOT_SUPPORTED:
            return 1
        if error.hung_up and error.code is None:
            return None
        raise
    if answer.reason >= REFUSED:
        raise SessionError("the broker refuses the probe for the moment")
    if answer.kind == PUBREC:
        line.session.release(answer.packet_id)
        line.wait_acks([answer.packet_id])
        return EXACTLY_ONCE
    return 1 if answer.kind == PUBACK else EXACTLY_ONCE


class Probe(threading.Thread):
    """Finds out a fact about a broker, in parallel with the relay."""

    #: What it finds out, for the log.
    question = ""

    def __init__(self, settings: Settings, session: Session) -> None:
        super().__init__(name="arus-probe", daemon=True)
        self._settings = settings
        self._client_id = session.client_id
        self._meter = session.meter
        self._given_up = threading.Event()

    def give_up(self, timeout: float) -> None:
        """Stop within `timeout` seconds."""
        self._given_up.set()
        self.join(timeout)

    def run(self) -> None:
        """Find out."""
        _meter.set(self._meter)
        try:
            self._find()
        except ArusError as error:
            logger.info(
                "[MQTT Reliable Sync] could not find out %s %s accepts: %s",
                self.question,
                self._settings.broker,
                error,
            )

    def _find(self) -> None:
        raise NotImplementedError


class HandshakeProbe(Probe):
    """Counts how many QoS 2 handshakes an MQTT 3.1.1 broker accepts at a time.

    It opens `DEFAULT` of them at once on a topic of its own, releases them, and counts the messages that come back:
    those that the broker has rejected do not.
    """

    question = "how many QoS 2 handshakes"

    def __init__(self, settings: Settings, session: Session) -> None:
        super().__init__(settings, session)
        #: The result, once the thread has ended; None if it could not be determined.
        self.found: Allowance | None = None

    def _find(self) -> None:
        patience = self._settings.connect_timeout
        with _line(
            "3.1.1", self._settings, self._client_id, patience, self._given_up.is_set
        ) as line:
            self.found = _count(line, _topic(self._settings, self._client_id))


class QosProbe(Probe):
    """Finds out whether a broker that did not support QoS 2 does so now."""

    question = "which QoS"

    def __init__(self, settings: Settings, session: Session, version: Version) -> None:
        super().__init__(settings, session)
        self._version = version
        #: The highest QoS that it supports, once the thread has ended; None if it could not be determined.
        self.found: int | None = None

    def _find(self) -> None:
        self.found = find_qos(self._version, self._settings, self._client_id, self._given_up.is_set)


def _topic(settings: Settings, client_id: str) -> str:
    """Return the topic of a client's probes: it may publish and subscribe to it."""
    return f"{settings.topic_prefix}/{PROBE}/{level_of(client_id)}"


def _count(line: _Line, topic: str) -> Allowance | None:
    session = line.session
    asked = session.ask([(topic, 0)])
    answer = line.wait(lambda event: isinstance(event, Subscribed) and event.packet_id == asked)
    if not isinstance(answer, Subscribed) or answer.reasons[0] >= 0x80:
        return None
    packet_ids = range(CONTROL_IDS + 1, CONTROL_IDS + 1 + DEFAULT)
    for number, packet_id in enumerate(packet_ids):
        session.publish_entry(
            topic.encode(),
            _probe_message(number),
            packet_id=packet_id,
            qos=2,
            dup=False,
            retain=False,
        )
    confirmed = line.wait_acks(packet_ids)
    for packet_id in confirmed:
        session.release(packet_id)
    line.wait_acks(confirmed)
    if len(line.payloads) < DEFAULT:
        line.wait(lambda _event: len(line.payloads) == DEFAULT, at_most=_QUIET)
    count = len(line.payloads)
    return Allowance(count, (count - 1) * PROBE_SIZE) if count else None


def _probe_message(number: int) -> bytes:
    """Return a message of `PROBE_SIZE` bytes: JSON, like every message published under the prefix."""
    head = f'{{"type":"probe","number":{number},"fill":"'.encode()
    return head.ljust(PROBE_SIZE - 2, b"-") + b'"}'


class _Line:
    """A connected session that waits for events."""

    def __init__(self, session: Session, patience: float, stopping: Callable[[], bool]) -> None:
        self.session = session
        #: Seconds to wait for an event.
        self.patience = patience
        self._stopping = stopping
        #: The broker's answer to CONNECT.
        self.connected: Connected | None = None
        #: Different payloads that have been received.
        self.payloads: set[bytes] = set()

    def wait(
        self, wanted: Callable[[SessionEvent], bool], *, at_most: float | None = None
    ) -> SessionEvent | None:
        """Wait for the first event that matches, and return it.

        :param at_most: seconds after which None is returned instead.
        :raises SessionError: it does not arrive in time.
        """
        deadline = time.monotonic() + (self.patience if at_most is None else at_most)
        found: SessionEvent | None = None
        while found is None and (left := deadline - time.monotonic()) > 0 and not self._stopping():
            self._rest(left)
            for event in self.session.receive():
                if isinstance(event, Received):
                    self.payloads.add(event.payload)
                if found is None and wanted(event):
                    found = event
        if found is None and at_most is None:
            raise SessionError("the broker did not answer in time")
        return found

    def _rest(self, most: float) -> None:
        self.session.flush()
        sock = self.session.fileno()
        if sock is None:
            return  # `receive` says why
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if self.session.wants_write else 0))
        poll.poll(min(most, _LOOK) * 1000)

    def publish(self, topic: str, packet_id: int, *, qos: int) -> Ack:
        """Publish a message, and return the broker's answer.

        :raises SessionError: there is none in time, or the connection ended.
        """
        self.session.publish_entry(
            topic.encode(),
            b'{"type":"probe"}',
            packet_id=packet_id,
            qos=qos,
            dup=False,
            retain=False,
        )
        answer = self.wait(lambda event: isinstance(event, Ack) and event.packet_id == packet_id)
        if not isinstance(answer, Ack):
            raise SessionError("the probe was stopped")
        return answer

    def wait_acks(self, packet_ids: range | list[int]) -> list[int]:
        """Wait for an answer to each packet; return those whose PUBREL is due."""
        waiting = set(packet_ids)
        confirmed = []

        def last(event: SessionEvent) -> bool:
            if isinstance(event, Ack) and event.packet_id in waiting:
                waiting.discard(event.packet_id)
                if event.kind == PUBREC:
                    confirmed.append(event.packet_id)
            return not waiting

        if waiting:
            self.wait(last)
        return confirmed


@contextmanager
def _line(
    version: Version,
    settings: Settings,
    client_id: str,
    patience: float,
    stopping: Callable[[], bool],
) -> Iterator[_Line]:
    """Open a connection with one version for the duration of the context.

    :raises SessionError: the broker does not accept it.
    """
    wanted = structs.replace(settings, protocol=version, connect_timeout=patience)
    session = Session(wanted, f"{client_id}_probe", lasting=False)
    try:
        session.connect(clean_start=True)
        line = _Line(session, patience, stopping)
        connected = line.wait(lambda event: isinstance(event, Connected))
        line.connected = connected if isinstance(connected, Connected) else None
        yield line
        session.say_goodbye(time.monotonic() + PATIENCE)
    finally:
        session.close()
        if (meter := _meter.get()) is not None:
            meter.beside(session.meter)
