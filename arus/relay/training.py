"""Trains dictionaries on the messages of the log, in the background.

A training reads a bounded number of changes, and makes a dictionary of every second one. The others show how much it
saves on messages that it was not made of. It takes about a tenth of a second of processor time, and one is due at most
once a day.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from msgspec import Struct
from sqlalchemy import URL, Connection

from arus.database import open_engine, reading
from arus.errors import LogUnavailableError
from arus.logs import get_logger
from arus.outbox import sql
from arus.outbox.reader import LogReader
from arus.protocol.encoding import encode_catchup, encode_change
from arus.protocol.entries import Entry
from arus.protocol.frames import Compressor, Dictionary, train

logger = get_logger(__name__)

#: The newest changes of the log that a dictionary is made of, and the newest of each topic: rare ones count too.
NEWEST, NEWEST_OF_TOPIC = 1_000, 100
#: Changes without which no dictionary is made.
FEWEST = 100
#: Bytes of all samples: it bounds the processor time.
MAX_SAMPLES = 2_097_152
#: One sample in so many is an item of a catch-up.
_ITEM_IN = 8
#: A new dictionary is worthwhile if messages are not larger than this part of their present size.
WORTHWHILE = 0.9


class Trained(Struct, frozen=True):
    """The result of a training."""

    #: None if it is not worthwhile, or there are too few changes.
    dictionary: Dictionary | None
    #: Bytes of the messages that it was not made of, and of their frames with it, and as they are sent now.
    plain: int = 0
    size: int = 0
    present: int = 0


class Trainer:
    """Trains in a separate thread, one dictionary at a time. The relay's thread calls it.

    :param url: of the application's database.
    :param with_actor: whether changes are sent with their actor: otherwise no dictionary may contain one.
    """

    def __init__(self, url: str | URL, *, with_actor: bool = False) -> None:
        self._url = url
        self._with_actor = with_actor
        self._thread: threading.Thread | None = None
        self._result: Trained | None = None

    @property
    def is_running(self) -> bool:
        """Whether a dictionary is being trained."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, present: Dictionary | None) -> None:
        """Start a training.

        :param present: the dictionary that is used now.
        """
        self._thread = threading.Thread(
            target=self._run, args=(present,), name="arus trainer", daemon=True
        )
        self._thread.start()

    def take(self) -> Trained | None:
        """Return the result of a training that has ended since the last call; None if there is none."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread = None
        result, self._result = self._result, None
        return result or Trained(None)

    def stop(self) -> None:
        """Wait for a training that is going on."""
        if self._thread is not None:
            self._thread.join(10.0)

    def _run(self, present: Dictionary | None) -> None:
        engine = open_engine(self._url)
        try:
            with reading(engine) as connection:
                samples = read_samples(connection, with_actor=self._with_actor)
            self._result = trained_on(samples, present)
        except LogUnavailableError as error:
            logger.warning("[MQTT Reliable Sync] no dictionary was made: %s", error)
        except Exception:  # the relay must not wait for it for ever
            logger.exception("[MQTT Reliable Sync] no dictionary was made")
        finally:
            engine.dispose()


def read_samples(connection: Connection, *, with_actor: bool) -> list[bytes]:
    """Return messages as they would be sent of the newest changes, oldest first; none if the log is new."""
    session = connection.execute(sql.session.HEAD).one_or_none()
    if session is None:
        return []
    log = LogReader(connection, with_actor=with_actor)
    topics = [row.topic for row in connection.execute(sql.topic_queues.HEADS)]
    found = {entry.id: entry for entry in log.newest(NEWEST)}
    for topic in topics:
        found.update((entry.id, entry) for entry in log.newest(NEWEST_OF_TOPIC, topic))
    entries = [found[entry_id] for entry_id in sorted(found)]
    return list(_within(MAX_SAMPLES, _messages(entries, session.epoch, session.vessel_id)))


def trained_on(samples: Sequence[bytes], present: Dictionary | None) -> Trained:
    """Return a dictionary for messages like these, unless it would save too little."""
    if len(samples) < FEWEST:
        return Trained(None)
    dictionary = train(samples[::2])
    if dictionary is None:
        return Trained(None)
    others = samples[1::2]
    size, now = (_size(others, each) for each in (dictionary, present))
    is_worthwhile = size <= WORTHWHILE * now
    return Trained(
        dictionary if is_worthwhile else None, sum(len(each) for each in others), size, now
    )


def _size(messages: Iterable[bytes], dictionary: Dictionary | None) -> int:
    compressor = Compressor(dictionary)
    return sum(len(compressor.compress(message)) for message in messages)


def _messages(entries: Sequence[Entry], epoch: str, vessel_id: str) -> Iterable[bytes]:
    # The newest first: they are kept if the bound is reached.
    for number, entry in enumerate(reversed(entries)):
        if number % _ITEM_IN == 0:
            yield encode_catchup(
                entry,
                epoch=epoch,
                vessel_id=vessel_id,
                catchup_id=entry.row_id[:36],
                sequence=number,
                total=len(entries),
            )
        else:
            yield encode_change(entry, epoch=epoch, vessel_id=vessel_id)


def _within(most: int, messages: Iterable[bytes]) -> Iterable[bytes]:
    size = 0
    for message in messages:
        size += len(message)
        if size > most:
            return
        yield message
