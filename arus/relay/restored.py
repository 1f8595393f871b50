"""Detects a database restored from an older copy: the broker or a follower then has later changes than the log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from arus.errors import ConnectionLostError, RefusedMessageError
from arus.inbound.router import Claim
from arus.logs import get_logger
from arus.mqtt.events import Received
from arus.outbox.log import ChangeLog
from arus.protocol.encoding import Published, decode_published, decode_status
from arus.protocol.frames import Dictionary, decompress, is_frame
from arus.protocol.messages import DataChange, Status
from arus.protocol.topics import STATUS

from .epochs import NewEpochs

logger = get_logger(__name__)

#: Seconds between two answers to watermarks above the head.
ANSWER_PERIOD = 5.0
#: Followers whose watermark is above the head that are remembered.
MAX_CLAIMS = 100


class Proof(NamedTuple):
    """A number of this vessel and epoch that the broker has retained, and the log has not given out."""

    #: Where it is retained.
    topic: str
    says: str


class Verdict(NamedTuple):
    """The result of a look-back."""

    #: The topic to read first in the next connection, before all others are read again; None if none is read again.
    again: str | None = None
    #: Why this connection must not open; None if it may.
    reason: str | None = None


class RestoreCheck:
    """Compares the log with the messages of this vessel that the broker has retained. Runs in the relay's thread.

    A status is ahead of the log if its number is above the head; a change, if its number is above those sent on its
    topic: after a restore, changes are numbered without a connection too, and may have hidden the first. What is ahead
    is a proof when a second connection reads it too. Nothing is published before that, because the next numbers may
    have been used for other changes. A status that names a dictionary that the log does not have is such a proof too.

    :param prefix: of all topics.
    :param published: topics under the prefix on which this vessel's changes are retained.
    :param entities: the entity of each topic; a topic that is not in it is that of the entity of its name.
    """

    def __init__(
        self, log: ChangeLog, prefix: str, published: Iterable[str], entities: Mapping[str, str]
    ) -> None:
        self._log = log
        self._prefix = prefix
        self._entity_of = entities
        #: Topics under which this vessel's messages are retained.
        self.topics = [f"{prefix}/{topic}" for topic in (STATUS, *published)]
        self._epochs = NewEpochs(log)
        #: What this look-back has found.
        self._seen: Proof | None = None
        #: The last look-back has found a proof.
        self._doubts = False
        #: The dictionaries of the log, once this look-back needs them; None before that.
        self._known: dict[int, Dictionary | None] | None = None
        #: Of followers.
        self.claims = RestoreClaims(log, self._epochs)

    @property
    def is_proved(self) -> bool:
        """Whether the broker holds a later change than the log: no other message needs to be read."""
        return self._seen is not None

    def take(self, received: Received) -> bool:
        """Process a message of a look-back; return whether it was one."""
        if received.topic not in self.topics:
            return False
        if received.retain:  # one that is published at this moment is no proof
            self._seen = self._seen or self._ahead(received)
        return received.qos == 0

    def _ahead(self, received: Received) -> Proof | None:
        """Return the proof in a message; None if it is not of this vessel, epoch and topic, or not ahead of the log."""
        topic = received.topic.removeprefix(f"{self._prefix}/")
        try:
            if topic == STATUS:
                return self._status_ahead(received.topic, decode_status(received.payload))
            payload = received.payload
            if is_frame(payload):
                payload = decompress(payload, self._dictionaries().get)
            return self._change_ahead(received.topic, topic, decode_published(payload))
        except RefusedMessageError:
            return None

    def _status_ahead(self, where: str, status: Status) -> Proof | None:
        if not self._is_own(status):
            return None
        head = self._log.head_seq
        if (status.seq or 0) > head:
            return _proof(where, status.seq, f"the log ends at {head}")
        # The status names a dictionary before any message needs it: a log without it can't read the later ones.
        if isinstance(status.dictionary, int) and self._lacks(status.dictionary, status.seq or 0):
            says = f"the broker holds a status of this vessel on {where} that names dictionary"
            return Proof(where, f"{says} {status.dictionary}, which the log does not have")
        return None

    def _change_ahead(self, where: str, topic: str, message: Published) -> Proof | None:
        if not isinstance(message, DataChange) or not self._is_own(message):
            return None
        if message.entity != self._entity_of.get(topic, topic):
            return None
        queue = self._log.topic_queues.get(topic)
        sent = 0 if queue is None else queue.sent_seq
        if message.seq > sent:
            return _proof(where, message.seq, f"the last one sent there was {sent}")
        return None

    def _is_own(self, message: Status | DataChange) -> bool:
        return (message.vessel_id, message.epoch) == (self._log.vessel_id, self._log.epoch)

    def _lacks(self, dictionary_id: int, seq: int) -> bool:
        """Return whether the log was restored from a copy without a dictionary that was named at a number.

        A last will may name one that was deleted since, with all changes up to that number.
        """
        return dictionary_id not in self._dictionaries() and seq >= self._log.reach().pruned_seq

    def _dictionaries(self) -> dict[int, Dictionary | None]:
        """Return the dictionaries of the log by id; None for one that is damaged."""
        if self._known is None:
            self._known = {row.id: dictionary for row, dictionary in self._log.dictionaries()}
        return self._known

    def compare(self) -> Verdict:
        """Decide what the look-back means, if there was one; a connection begins.

        Begins a new epoch if the broker holds later changes than the log, and has held them in the last look-back too.
        """
        self.claims.begin()
        self._known = None
        seen, self._seen = self._seen, None
        doubted, self._doubts = self._doubts, False
        if seen is None:
            if doubted:
                logger.warning(
                    "[MQTT Reliable Sync] the broker no longer holds a change that the log does not have: no new epoch"
                )
            return Verdict()
        if not self._epochs.may_begin():
            self._epochs.disbelieve(seen.says)
            return Verdict(again=seen.topic)
        if doubted:
            self._epochs.begin(seen.says)
            return Verdict(reason="a new epoch needs a new session")
        self._doubts = True
        return Verdict(
            again=seen.topic,
            reason=f"{seen.says}: reading it again before anything is published",
        )


def _proof(where: str, seq: int | None, but: str) -> Proof:
    return Proof(where, f"the broker holds change {seq} of this vessel on {where}, but {but}")


class RestoreClaims:
    """Watermarks above the log's head: their followers have applied changes that the log does not have.

    A watermark may be old or forged. So the vessel answers with its status, and believes a follower that says so once
    more after that. Runs in the relay's thread.
    """

    def __init__(
        self, log: ChangeLog, epochs: NewEpochs, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._epochs = epochs
        self._clock = clock
        #: Followers to be answered, and those that were.
        self._waiting: set[str] = set()
        self._answered: set[str] = set()
        #: Monotonic seconds.
        self._answered_at = -math.inf

    def begin(self) -> None:
        """Note that a connection has begun."""
        self._waiting.clear()
        self._answered.clear()

    def take(self, claims: Iterable[Claim]) -> None:
        """Process watermarks.

        :raises ConnectionLostError: one of them is believed; the new epoch needs a new session.
        """
        for name, ahead, retained in claims:
            if ahead is None:
                self._answered.discard(name)
                self._waiting.discard(name)
            elif name in self._answered and not retained:
                self._answered.discard(name)
                self._believe(
                    f"follower {name} has applied change {ahead} of this vessel, but the log ends at {self._log.head_seq}"
                )
            elif len(self._waiting) < MAX_CLAIMS:
                self._waiting.add(name)

    def answer_due(self) -> bool:
        """Return whether the status is to be published now, as the answer to watermarks above the head."""
        now = self._clock()
        if not self._waiting or now - self._answered_at < ANSWER_PERIOD:
            return False
        self._answered_at = now
        self._answered, self._waiting = self._waiting, set()
        return True

    def _believe(self, proof: str) -> None:
        if not self._epochs.may_begin():
            self._epochs.disbelieve(proof)
            return
        self._epochs.begin(proof)
        raise ConnectionLostError("a new epoch needs a new session")
