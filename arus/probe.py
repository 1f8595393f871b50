"""Probes: short connections of their own that find out what a broker does not say of itself.

Each has a client id of its own and a session that ends with it, so that the vessel's session is not touched,
and what a cut link leaves behind is gone.
"""

from __future__ import annotations

import dataclasses
import logging
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .codec import PUBREC, Ack
from .errors import ArusError, SessionError
from .handshakes import DEFAULT, Allowance
from .message import now_ms
from .negotiation import Version
from .session import CONTROL_IDS, Connected, Received, Session, SessionEvent, Subscribed
from .settings import Settings

logger = logging.getLogger(__name__)

#: Times that a broker has to accept 3.1.1 and not to answer 5, in turn: a bad link does not do that.
ROUNDS = 6
#: Seconds for an answer to MQTT 5 at least, and how much longer than for one to 3.1.1 that may take.
PATIENCE = 1.0
SLOWNESS = 3
#: Bytes of payload of each message that counts handshakes: about those of a change.
PROBE_SIZE = 512
#: Seconds within which what was released has come back.
_QUIET = 1.0
#: Seconds between two looks whether to give up.
_LOOK = 0.2


def find_version(
    settings: Settings, client_id: str, stopping: Callable[[], bool]
) -> Version | None:
    """Find out whether a broker that does not answer MQTT 5 speaks 3.1.1; blocks for some seconds.

    :param stopping: whether to give up.
    :returns: None where it can't be told: the link is bad, or nothing is answered at all.
    """
    patience = settings.connect_timeout
    for round_number in range(ROUNDS + 1):
        began = time.monotonic()
        if not _answers("3.1.1", settings, client_id, settings.connect_timeout, stopping):
            return None
        if round_number == ROUNDS:
            return "3.1.1"
        patience = min(patience, max(PATIENCE, SLOWNESS * (time.monotonic() - began)))
        if _answers("5", settings, client_id, patience, stopping):
            return "5"
    return None


def settle_version(session: Session, settings: Settings, stopping: Callable[[], bool]) -> None:
    """Find out what a broker speaks that has not answered MQTT 5, if that is due; blocks for some seconds."""
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
) -> bool:
    try:
        with _line(version, settings, client_id, patience, stopping):
            return True
    except SessionError:
        return False


class HandshakeProbe(threading.Thread):
    """Counts, beside the relay, how many QoS 2 handshakes a broker of MQTT 3.1.1 takes at a time.

    It opens `DEFAULT` of them at once on a topic of its own, releases them, and counts what comes back: what the
    broker has rejected does not.

    :param topic: topic name that the vessel may publish and subscribe to.
    """

    def __init__(self, settings: Settings, client_id: str, topic: str) -> None:
        super().__init__(name="arus-probe", daemon=True)
        self._settings = settings
        self._client_id = client_id
        self._topic = topic
        self._given_up = threading.Event()
        #: What was found, once the thread has ended; None if it could not be told.
        self.found: Allowance | None = None

    def give_up(self, timeout: float) -> None:
        """End within `timeout` seconds."""
        self._given_up.set()
        self.join(timeout)

    def run(self) -> None:
        """Count."""
        patience = self._settings.connect_timeout
        try:
            with _line(
                "3.1.1", self._settings, self._client_id, patience, self._given_up.is_set
            ) as line:
                self.found = _count(line, self._topic)
        except ArusError as error:
            logger.info(
                "[MQTT Reliable Sync] how many QoS 2 handshakes %s takes could not be found out: %s",
                self._settings.broker,
                error,
            )


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
    """Return a message of `PROBE_SIZE` bytes: JSON, as all that is published under the prefix."""
    head = f'{{"type":"probe","number":{number},"fill":"'.encode()
    return head.ljust(PROBE_SIZE - 2, b"-") + b'"}'


class _Line:
    """A connected session, driven until it has said what is waited for."""

    def __init__(self, session: Session, patience: float, stopping: Callable[[], bool]) -> None:
        self.session = session
        self._patience = patience
        self._stopping = stopping
        #: Different payloads that have come in.
        self.payloads: set[bytes] = set()

    def wait(
        self, wanted: Callable[[SessionEvent], bool], *, at_most: float | None = None
    ) -> SessionEvent | None:
        """Return the event that is wanted.

        :param at_most: seconds after which None is returned instead.
        :raises SessionError: it does not come.
        """
        deadline = time.monotonic() + (self._patience if at_most is None else at_most)
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

    def wait_acks(self, packet_ids: range | list[int]) -> list[int]:
        """Wait for an answer to each packet; return those that a PUBREL is due for."""
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
    """Connect by one version, for a while.

    :raises SessionError: the broker does not take it.
    """
    wanted = dataclasses.replace(settings, protocol=version, connect_timeout=patience)
    session = Session(wanted, f"{client_id}_probe", lasting=False)
    try:
        session.connect(clean_start=True)
        line = _Line(session, patience, stopping)
        line.wait(lambda event: isinstance(event, Connected))
        yield line
        session.say_goodbye(time.monotonic() + PATIENCE)
    finally:
        session.close()
