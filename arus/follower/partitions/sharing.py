"""Shares the partitions with the other processes: each takes its share, and what another one leaves behind."""

from __future__ import annotations

import random
import threading
import time

from sqlalchemy import Connection

from arus.database import is_sqlite, open_engine, transaction, translated
from arus.errors import FollowError, LogUnavailableError
from arus.follower.parts import Common
from arus.logs import get_logger
from arus.outbox.brokers import KnownBroker, read_broker, save_broker

from .agreement import Partitioning, agree, read_partitioning, read_places
from .discovery import Discovery
from .locks import (
    Holders,
    be_present,
    check_version,
    end_silent,
    open_session,
    read_holders,
    share_database,
)
from .names import MAX_NAME
from .placement import MAX_PARTITIONS, share_of
from .worker import Resources, Worker

logger = get_logger(__name__)

#: Seconds between two looks at who holds what: in this time, and a little more, a partition has a worker again.
ROUND = 1.0
#: Seconds before the database is tried again; and before a partition that could not be followed is, doubled each time.
RETRY_INTERVAL = 2.0
LONGEST_PAUSE = 60.0
#: Seconds for all partitions to be given back.
GOODBYE = 5.0


def check_partitions(common: Common, partitions: int) -> None:
    """Check that a follower can be divided into partitions.

    :raises FollowError: it can't be.
    """
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise FollowError(f"--partitions must be from 1 to {MAX_PARTITIONS}, not {partitions}")
    if is_sqlite(common.url):
        raise FollowError(
            "--partitions needs PostgreSQL, whose locks the processes share: a database on SQLite has one follower"
        )
    if not common.settings.topics.is_per_vessel:
        raise FollowError(
            "--partitions needs a level {vessel_id} in MQTT_TOPIC_PREFIX, as in fleet/{vessel_id}/sync: a partition"
            " subscribes to the topics of its own vessels"
        )
    if len(common.name) > MAX_NAME:
        raise FollowError(f"--partitions: a name has at most {MAX_NAME} characters")


class PartitionSharing:
    """The part of one process in a partitioned follower.

    :param stopping: ends it.
    """

    def __init__(self, common: Common, partitions: int, stopping: threading.Event) -> None:
        check_partitions(common, partitions)
        self._common = common
        self._partitions = partitions
        self._stopping = stopping
        self._reading = open_engine(common.url)
        self._resources = Resources(common, self._reading, stopping)
        self._workers: dict[int, Worker] = {}
        self._discovery: Discovery | None = None
        #: The version of the places that the workers know, and their vessels, by partition.
        self._version = -1
        self._vessels: dict[int, dict[str, str | None]] = {}
        #: Partitions that could not be followed here: when they are tried again, and the pause after that.
        self._pauses: dict[int, tuple[float, float]] = {}
        self._said: str | None = None
        self._known: KnownBroker | None = None

    def run(self) -> None:
        """Follow this process's share of the partitions.

        :raises FollowError: processes are running that divide the vessels in another way.
        """
        self._resources.keeper.start()
        try:
            while not self._stopping.is_set():
                try:
                    with translated(), self._reading.connect() as connection:
                        check_version(connection)
                    with open_session(self._common.url) as connection:
                        self._share(connection)
                except LogUnavailableError as error:
                    self._say(f"{error}; trying again")
                    self._stopping.wait(RETRY_INTERVAL)
        finally:
            self._end()

    def _share(self, connection: Connection) -> None:
        while not share_database(connection):
            self._say("another process works on this database without partitions; standing by")
            if self._stopping.wait(ROUND):
                return
        self._version = -1
        own = self._agree(connection)
        self._known = read_broker(connection, str(self._common.settings.broker))
        self._resources.found = self._resources.found or self._known.found
        self._said = None
        while not self._stopping.is_set():
            self._round(connection, own)
            # At random, so that not all processes look at the same moment.
            self._stopping.wait(ROUND * random.uniform(0.7, 1.0))

    def _agree(self, connection: Connection) -> int:
        """Agree with the other processes, and show this one's presence; return the id of its session."""
        present: list[int] = []
        agree(
            connection,
            Partitioning(self._common.name, self._partitions),
            self._common.settings.follow_vessels,
            others=lambda: len(read_holders(connection).workers),
            present=lambda: present.append(be_present(connection)),
        )
        logger.info(
            "[MQTT Reliable Sync] %s follows %s/# in %d partitions, %d other processes are running",
            self._common.name,
            self._common.settings.topics.any_vessel,
            self._partitions,
            len(read_holders(connection).workers) - 1,
        )
        return present[0]

    def _round(self, connection: Connection, own: int) -> None:
        holders = read_holders(connection)
        end_silent(connection, holders, own=[own])
        self._remember_broker(connection)
        self._bury()
        self._read_places(connection)
        self._take_share(holders, own)
        if self._discovery is not None and not self._discovery.is_alive:
            self._discovery = None
        if self._discovery is None and not holders.discovers:
            self._discovery = Discovery(self._resources, self._partitions)
            self._discovery.start()

    def _remember_broker(self, connection: Connection) -> None:
        """Save which version of MQTT the broker was found to speak, for processes that start later."""
        if self._known is not None and self._known.found != self._resources.found:
            self._known.found = self._resources.found
            with transaction(connection):
                save_broker(connection, self._known)

    def _bury(self) -> None:
        """Forget the workers that have ended; one that failed is not started again at once."""
        now = time.monotonic()
        for number, worker in list(self._workers.items()):
            if worker.is_alive:
                continue
            del self._workers[number]
            if not worker.has_failed:
                continue
            pause = RETRY_INTERVAL
            if number in self._pauses and now - worker.began_at < LONGEST_PAUSE:
                pause = min(2 * self._pauses[number][1], LONGEST_PAUSE)
            self._pauses[number] = (now + pause, pause)

    def _read_places(self, connection: Connection) -> None:
        """Tell the workers of vessels that have come or gone."""
        agreed = read_partitioning(connection)
        if agreed is None or agreed.version == self._version:
            return
        named = self._common.settings.follow_vessels
        vessels: dict[int, dict[str, str | None]] = {}
        for vessel_id, its in read_places(connection).items():
            if named is None or vessel_id in named:
                vessels.setdefault(its.number, {})[vessel_id] = its.status
        self._version, self._vessels = agreed.version, vessels
        for number, worker in self._workers.items():
            worker.members.assign(vessels.get(number, {}))

    def _take_share(self, holders: Holders, own: int) -> None:
        """Take partitions that nobody has, or give some back, until this process has its share."""
        if own not in holders.workers:
            return  # its session has just ended
        place = holders.workers.index(own)
        share = share_of(place, len(holders.workers), self._partitions)
        mine = sorted(number for number, one in self._workers.items() if not one.is_stopping)
        for number in mine[share:]:
            self._workers[number].stop()
        now = time.monotonic()
        # Each process begins at another place: two rarely want the same partition.
        begin = place * self._partitions // len(holders.workers)
        order = [(begin + step) % self._partitions for step in range(self._partitions)]
        free = [
            number
            for number in order
            if number not in holders.partitions
            and number not in self._workers
            and self._pauses.get(number, (0.0, 0.0))[0] <= now
        ]
        for number in free[: max(0, share - len(mine))]:
            self._start(number)

    def _start(self, number: int) -> None:
        worker = self._workers[number] = Worker(self._resources, number)
        worker.members.assign(self._vessels.get(number, {}))
        worker.start()

    def _end(self) -> None:
        """Give all partitions back."""
        if self._discovery is not None:
            self._discovery.stop()
        for worker in self._workers.values():
            worker.stop()
        deadline = time.monotonic() + GOODBYE
        for worker in self._workers.values():
            worker.join(max(0.0, deadline - time.monotonic()))
        if self._discovery is not None:
            self._discovery.join(max(0.0, deadline - time.monotonic()))
        self._resources.keeper.stop()
        self._reading.dispose()

    def _say(self, what: str) -> None:
        """Log a reason, once until things are well again."""
        if what != self._said:
            logger.warning("[MQTT Reliable Sync] %s", what)
        self._said = what
