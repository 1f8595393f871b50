"""One partition in this process: a thread, a connection to the database that holds its lock, and its loop."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import closing

from sqlalchemy import Connection, Engine

from arus.errors import LogUnavailableError
from arus.follower import sql
from arus.follower.assembly import make_parts
from arus.follower.audits.orphans import Orphans
from arus.follower.audits.sharing import Permit, Shared, Slots
from arus.follower.parts import Common
from arus.logs import get_logger
from arus.mqtt.client import Session
from arus.mqtt.negotiation import Found
from arus.protocol.times import now_ms

from .lease import Keeper, Lease
from .locks import BEAT, Kind, open_session, share_database, take
from .loop import PartitionLoop
from .members import Members

logger = get_logger(__name__)


class Resources:
    """What the partitions of one process share.

    :param reading: an engine for reading orphans.
    :param stopping: set when the process ends.
    """

    def __init__(self, common: Common, reading: Engine, stopping: threading.Event) -> None:
        self.common = common
        self.keeper = Keeper()
        self.slots = Slots()
        #: The version of MQTT that the broker was found to speak: each session would have to find it out.
        self.found: Found | None = None
        self.orphans = Orphans(reading, common.copies, stopping)

    def inform(self, session: Session) -> None:
        """Tell a new session which version of MQTT the broker speaks."""
        session.negotiation.found = self.found

    def learn(self, session: Session) -> None:
        """Note which version of MQTT the broker speaks: the session is connected."""
        self.found = session.negotiation.found or self.found


class Worker:
    """Follows one partition until it is stopped, or loses the lock.

    A partition without vessels only holds its lock.
    """

    def __init__(self, resources: Resources, number: int) -> None:
        self.number = number
        #: Its vessels.
        self.members = Members()
        #: Why it has ended, if it was not stopped: the lock could not be taken, or the database not be used.
        self.has_failed = False
        #: Monotonic seconds.
        self.began_at = time.monotonic()
        self._resources = resources
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"arus p{number}", daemon=True)

    def start(self) -> None:
        """Take the lock and follow, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Apply what was received, disconnect from the broker, and give the lock back."""
        self._stopping.set()
        self.members.waker.wake()

    def join(self, timeout: float) -> None:
        """Wait for its end."""
        self._thread.join(timeout)

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            with open_session(self._resources.common.url) as connection:
                if not (
                    share_database(connection) and take(connection, Kind.PARTITION, self.number)
                ):
                    return  # another process was faster
                self._follow(connection)
        except LogUnavailableError as error:
            self.has_failed = True
            logger.warning("[MQTT Reliable Sync] partition %d is lost: %s", self.number, error)
        except Exception:  # another process, or this one a little later, tries again
            self.has_failed = True
            logger.exception("[MQTT Reliable Sync] partition %d is lost", self.number)

    def _follow(self, connection: Connection) -> None:
        logger.info("[MQTT Reliable Sync] takes partition %d", self.number)
        taken = {
            "number": self.number,
            "host": socket.gethostname()[:255],
            "pid": os.getpid(),
            "since": now_ms(),
        }
        connection.execute(sql.partitions.TAKE, taken)
        with closing(Lease(connection, self._resources.keeper)) as lease:
            while not self._stopping.is_set():
                if members := self.members.take():
                    permit = Permit(connection)
                    self._loop(connection, lease, members, permit).run()
                    permit.end()
                else:
                    self._wait(lease)
        logger.info("[MQTT Reliable Sync] gives partition %d back", self.number)

    def _wait(self, lease: Lease) -> None:
        lease.check()
        poll = select.poll()
        poll.register(self.members.waker, select.POLLIN)
        poll.poll(BEAT * 1000)

    def _loop(
        self,
        connection: Connection,
        lease: Lease,
        members: Mapping[str, str | None],
        permit: Permit,
    ) -> PartitionLoop:
        resources, vessels = self._resources, set(members)
        shared = Shared(resources.slots, resources.orphans, permit)
        parts = make_parts(
            resources.common, connection, vessels=vessels, partition=self.number, shared=shared
        )
        loop = PartitionLoop(
            resources.common,
            parts,
            self.number,
            self.members,
            vessels,
            members,
            lease,
            stopping=self._stopping.is_set,
            learn=resources.learn,
        )
        resources.inform(loop.session)
        return loop
