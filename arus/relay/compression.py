"""How the vessel's messages are sent: as JSON, or compressed, with which dictionary (`MQTT_COMPRESSION`)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from arus.logs import get_logger
from arus.outbox import sql
from arus.outbox.compressed import NO_DICTIONARY
from arus.protocol.frames import Compressor
from arus.protocol.times import now_ms

from .dictionaries import Dictionaries
from .packet_limit import PacketLimit
from .training import FEWEST, Trainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from arus.mqtt.client import Session
    from arus.outbox.log import ChangeLog
    from arus.outbox.topic_queue import TopicQueue
    from arus.settings import Settings

logger = get_logger(__name__)

#: Milliseconds between two trainings once there is a dictionary.
PERIOD = 86_400_000
#: Seconds before a training is tried again that has made no first dictionary.
RETRY = 600.0
#: Seconds between two checks for dictionaries that nothing needs any more.
EXPIRY = 60.0
_DAY = 86_400_000


class Compression:
    """Encodes messages, and manages the dictionaries. Used by the relay's thread only.

    A message that is sent again has the same bytes: which dictionary it was sent with is saved (`Uses`) in the
    transaction that permits it to be sent for the first time.
    """

    def __init__(
        self, log: ChangeLog, session: Session, settings: Settings, trainer: Trainer
    ) -> None:
        self._log = log
        self._session = session
        self._is_wanted = settings.compresses
        self._trainer = trainer
        self._dictionaries = Dictionaries(
            log, session, settings.topic_prefix, keep=int(settings.retention_days * _DAY)
        )
        self._uses = log.uses()
        #: By dictionary.
        self._compressors: dict[int, Compressor] = {}
        self._limit = PacketLimit(settings.topic_prefix)
        self._connected = False
        #: The dictionary that could be used at the last status of this connection; None before the first.
        self._announced: int | None = None
        #: Dictionaries that nothing needs any more: each is deleted once the broker accepts one more message.
        self._expired: list[int] = []
        #: No training before this time, and no check for dictionaries to delete; in monotonic seconds.
        self._train_from = 0.0
        self._expire_at = 0.0
        #: The log's last number at the last training.
        self._tried_at = 0

    # -- connection -------------------------------------------------------------------------------

    def begin(self, limit: PacketLimit, *, session_present: bool) -> None:
        """Begin a connection.

        :param limit: the packet size that the broker accepts.
        :param session_present: the broker has kept its session.
        """
        self._limit = limit
        self._connected = True
        self._dictionaries.begin(session_present=session_present)
        if not self._is_wanted:
            self._dictionaries.retire()

    def end(self) -> None:
        """Discard all state that is not journalled."""
        self._connected = False
        self._announced = None
        self._expired.clear()
        self._uses = self._log.uses()
        self._dictionaries.reload()

    def acknowledged(self, packet_id: int, reason: int) -> None:
        """Process an acknowledgement of any message."""
        self._dictionaries.acknowledged(packet_id, reason)

    def step(self, *, has_room: bool) -> None:
        """Save what the broker has acknowledged, and publish a dictionary that messages need, or delete one.

        :param has_room: the broker accepts one more message now.
        """
        self._dictionaries.journal()
        if not has_room or not self._connected:
            return
        if self._expired:
            self._delete(self._expired.pop())
            return
        needed = self._needed(unacknowledged=True)
        if not self._is_wanted and not needed:
            return
        dictionary = self._dictionaries.to_publish(needed)
        if dictionary is None:
            return
        if self._limit.fits("", dictionary.content):
            self._dictionaries.publish(dictionary)
        else:
            self._dictionaries.too_large(dictionary)

    # -- the status -------------------------------------------------------------------------------

    @property
    def new_dictionary_id(self) -> int | UnsetType:
        """What a status says: the dictionary that messages are compressed with from now on.

        A log that was restored from a copy that lacks the dictionary is recognised by it, or by the status's own
        number: so it is not said any more once that is above the log's last number when the dictionary was made.
        """
        usable = self._dictionaries.usable if self._is_wanted else None
        is_new = usable is not None and usable.created_seq >= self._log.head_seq
        return usable.dictionary.id if usable is not None and is_new else UNSET

    @property
    def _usable_id(self) -> int:
        usable = self._dictionaries.usable if self._is_wanted else None
        return NO_DICTIONARY if usable is None else usable.dictionary.id

    @property
    def is_news(self) -> bool:
        """Whether a dictionary can be used, and no status was published in this connection since."""
        return self._announced is not None and self._announced != self._usable_id

    def announced(self) -> None:
        """Note that a status is published: messages may be compressed with the dictionary that can be used."""
        self._announced = self._usable_id

    # -- messages ---------------------------------------------------------------------------------

    def may_repeat(self, topic: str, seq: int) -> bool:
        """Whether a change may be sent again: the broker has the dictionary that it was sent with."""
        dictionary = self._uses.of(topic, seq)
        return not dictionary or self._dictionaries.is_with_broker(dictionary)

    def encoder(self, topic: str, seq: int, *, again: bool) -> Callable[[int, bytes], bytes] | None:
        """Return what turns changes of a topic into the bytes to send; None if that is their JSON.

        `journal` saves how they are sent. The function takes a change's number, and the change as JSON.

        :param seq: of the first change.
        :param again: they were sent before.
        """
        if not self._is_wanted and not self._uses:
            return None
        if again:
            return lambda seq, payload: self._compress(payload, self._uses.of(topic, seq))
        dictionary = self._present
        self._uses.begin(topic, seq, dictionary)
        if dictionary is None:
            return None
        compress = self._compressor(dictionary).compress
        return lambda _seq, payload: compress(payload)

    def compress(self, payload: bytes) -> bytes:
        """Return the bytes to send for a message of a catch-up."""
        return self._compress(payload, self._present)

    @property
    def _present(self) -> int | None:
        """The dictionary of new messages."""
        return (self._announced or NO_DICTIONARY) if self._is_wanted else None

    def _compress(self, payload: bytes, dictionary_id: int | None) -> bytes:
        if dictionary_id is None:
            return payload
        return self._compressor(dictionary_id).compress(payload)

    def _compressor(self, dictionary_id: int) -> Compressor:
        compressor = self._compressors.get(dictionary_id)
        if compressor is None:
            # A dictionary that is damaged in the database can't be used; its frames are made without.
            found = self._dictionaries.find(dictionary_id) if dictionary_id else None
            compressor = self._compressors[dictionary_id] = Compressor(found)
        return compressor

    def journal(self, connection: Connection) -> None:
        """Save how the changes of this step are sent, in its transaction."""
        new = self._uses.new
        if not new:
            return
        connection.execute(sql.dictionaries.USE, [use._asdict() for use in new])
        for topic in {use.topic for use in new}:
            before = self._uses.forget(topic, self._topic_queue(topic).acked_seq)
            if before is not None:
                wanted = {"topic": topic, "before": before}
                connection.execute(sql.dictionaries.FORGET_USES, wanted)
        self._uses.saved()

    def _topic_queue(self, topic: str) -> TopicQueue:
        return self._log.topic_queues[topic]

    def _needed(self, *, unacknowledged: bool = False) -> set[int]:
        """Return the dictionaries that retained and unacknowledged messages need.

        :param unacknowledged: leave out topics of which everything is acknowledged.
        """
        return {
            dictionary
            for topic in self._uses.topics
            if (queue := self._log.topic_queues.get(topic)) is not None
            if queue.again or not unacknowledged
            for dictionary in self._uses.needed(topic, queue.acked_seq)
        }

    # -- at each poll -----------------------------------------------------------------------------

    def mind(self) -> None:
        """Train a dictionary that is due, and look for those that nothing needs; to be called about once a second."""
        now = time.monotonic()
        trained = self._trainer.take() if self._is_wanted else None
        if trained is not None:
            current = self._dictionaries.current
            if trained.dictionary is not None:
                self._dictionaries.add(trained.dictionary)
                logger.info(
                    "[MQTT Reliable Sync] dictionary %d is made: %d bytes of messages become %d, without it %d",
                    trained.dictionary.id,
                    trained.plain,
                    trained.size,
                    trained.present,
                )
            elif current is not None:
                self._dictionaries.checked(current)
            self._tried_at = self._log.head_seq
            self._train_from = now + RETRY
        elif now >= self._train_from and self._is_training_due():
            self._train_from = now + RETRY
            current = self._dictionaries.current
            self._trainer.start(None if current is None else current.dictionary)
        if now >= self._expire_at and self._connected and self._announced is not None:
            self._expire_at = now + EXPIRY
            self._expired = self._dictionaries.expired(self._needed())

    def _is_training_due(self) -> bool:
        if not self._is_wanted or self._log.head_seq < self._tried_at + FEWEST:
            return False
        if self._trainer.is_running or self._dictionaries.is_full:
            return False
        current = self._dictionaries.current
        return current is None or not 0 <= now_ms() - current.checked_at < PERIOD

    def _delete(self, dictionary_id: int) -> None:
        self._compressors.pop(dictionary_id, None)
        logger.info(
            "[MQTT Reliable Sync] dictionary %d is deleted: nothing needs it", dictionary_id
        )
        self._dictionaries.delete(dictionary_id)

    def stop(self) -> None:
        """Wait for a training that is going on."""
        self._trainer.stop()
