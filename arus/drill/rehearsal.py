"""Rehearses an outage with the real relay: on a copy of the database, with a broker that is away at first."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Engine

from arus.database import open_engine, transaction
from arus.errors import DrillError
from arus.inbound.handlers import Subscriptions
from arus.outbox import sql
from arus.outbox.counters import BYTES_SENT, DROPPED, PUBLISHED, SUPERSEDED, read_counters
from arus.protocol.times import now_ms
from arus.relay.training import read_samples, trained_on
from arus.runtime import Runtime
from arus.settings import Broker

from .broker import DrillBroker, Given, Memory
from .copying import copy_database
from .work import Work, read_work, repeat

HOUR = 3_600_000
#: Changes of a transaction, and between two looks at the queue, at most; and that part of the queue's bound.
_COMMIT, _COMMITS = 200, 10
#: Seconds without progress after which a drill fails.
_STUCK = 60.0
#: Attempts to remove the copies.
_REMOVALS = 5
#: Seconds between two looks: the relay tells nobody when it has numbered something.
_LOOK = 0.02


class Plan(Struct, frozen=True):
    """What is rehearsed."""

    hours: float
    #: Changes an hour.
    rate: float

    @property
    def changes(self) -> int:
        """Changes in the whole outage."""
        return max(1, round(self.hours * self.rate))


class Outcome(Struct, frozen=True):
    """What an outage has cost with some settings."""

    #: Settings that differ from the present ones; blank for these.
    settings: str
    changes: int
    #: Most changes that waited, of how many that may.
    deepest: int
    bound: int
    #: Hours after which the queue was full; None if it never was.
    full_after: float | None
    superseded: int
    dropped: int
    #: Bytes by which the database grew.
    grown: int
    #: Messages, those of them at QoS 2, and the bytes of all packets.
    messages: int
    handshakes: int
    sent: int
    #: Seconds that a given broker took for them, on the link to it as it is now; None without one.
    drained_in: float | None = None


class Rehearsal:
    """Rehearses outages on copies of a database; nothing of the original is touched.

    :param sync: of the application.
    :param directory: for the copies.
    :param broker: a real broker; one in memory if it is not given.
    :raises DrillError: the log is too short, or the database can't be copied.
    """

    def __init__(self, sync: Runtime, directory: Path, broker: Broker | None = None) -> None:
        self._sync = sync
        self._directory = directory
        self._given = broker
        #: The database as it is now; each rehearsal works on a copy of it.
        self._original = directory / "original.sqlite"
        with sync.engine.connect() as connection:
            self.work: Work = read_work(connection)
            trained = trained_on(read_samples(connection, with_actor=False), None)
        #: What zstd leaves of the messages, with a dictionary made of these; None if there are too few.
        self.compressed = trained.size / trained.plain if trained.plain else None
        copy_database(sync.engine, sync.db.metadata, self._original)

    def run(self, plan: Plan, settings: str = "", *, supersede: bool | None = None) -> Outcome:
        """Rehearse once.

        :param settings: what is different, for people.
        :raises DrillError: the relay has stopped making progress.
        """
        copy = self._directory / f"copy-{time.monotonic_ns()}.sqlite"
        shutil.copyfile(self._original, copy)
        size = copy.stat().st_size
        engine = open_engine(f"sqlite:///{copy}")
        broker = Memory() if self._given is None else Given(self._given)
        runtime = self._runtime(engine, broker, supersede)
        before = _counters(engine)
        runtime.start()
        try:
            deepest, full_after = self._outage(runtime, plan)
            back_at = time.monotonic()
            broker.go_online()
            _wait(lambda: runtime.status().depth, lambda: _is_drained(runtime))
            drained_in = time.monotonic() - back_at
        finally:
            runtime.stop()
        after = _counters(engine)
        grown = _size_of(copy) - size
        engine.dispose()
        for file in self._directory.glob(f"{copy.name}*"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        counted = {key: value - before.get(key, 0) for key, value in after.items()}
        bound = runtime.settings.max_queue_size
        return Outcome(
            settings,
            plan.changes,
            deepest,
            bound,
            full_after,
            _sum(counted, SUPERSEDED),
            _sum(counted, DROPPED),
            grown,
            broker.published,
            _sum({key: value for key, value in counted.items() if key[3] == "2"}, PUBLISHED),
            _sum(counted, BYTES_SENT),
            None if self._given is None else drained_in,
        )

    def _runtime(self, engine: Engine, broker: DrillBroker, supersede: bool | None) -> Runtime:
        present = self._sync.settings
        settings = replace(
            present,
            local_mode=True,
            data_budget=None,
            compresses=False,
            reconnect_period=0.05,
            supersede_always=present.supersede_always if supersede is None else supersede,
        )
        runtime = Runtime(
            self._sync.app,
            self._sync.db,
            broker.applied(settings),
            self._sync.registry,
            Subscriptions(),
            engine=engine,
        )
        runtime.open_session = broker.open_session
        return runtime

    def _outage(self, runtime: Runtime, plan: Plan) -> tuple[int, float | None]:
        """Commit the changes of an outage; return how many waited at most, and after how many hours the queue was full."""
        _wait(lambda: 0, lambda: runtime.status().owner is not None)
        head = runtime.status().head_seq
        entries = repeat(
            self.work, now_ms() - round(plan.hours * HOUR), plan.hours * HOUR / plan.changes
        )
        bound = runtime.settings.max_queue_size
        size = max(1, min(_COMMIT, bound // _COMMITS))
        deepest, full_after, made = 0, None, 0
        while made < plan.changes:
            rows = list(itertools.islice(entries, min(size, plan.changes - made)))
            with runtime.engine.connect() as connection, transaction(connection):
                connection.execute(sql.entries.REPEAT, rows)
            made += len(rows)
            runtime.notifier.notify()
            numbered = head + made
            _wait(
                lambda: runtime.status().head_seq,
                lambda numbered=numbered: runtime.status().head_seq >= numbered,  # type: ignore[misc]
            )
            depth = runtime.status().depth
            deepest = max(deepest, min(depth, bound))  # what is above goes in the relay's next turn
            if full_after is None and depth >= bound:
                full_after = plan.hours * made / plan.changes
        return deepest, full_after


@contextmanager
def copies(free: Path | None = None) -> Iterator[Path]:
    """Yield a directory for copies, which is deleted with all that is in it.

    :param free: where to make it; the directory for temporary files if it is not given.
    """
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="arus-drill-", dir=free))
    try:
        yield directory
    finally:
        for _attempt in range(_REMOVALS):  # a file that was made meanwhile keeps the directory
            shutil.rmtree(directory, ignore_errors=True)


def _is_drained(runtime: Runtime) -> bool:
    status = runtime.status()
    if status.depth or not status.connected:
        return False
    with runtime.engine.connect() as connection:
        return not connection.execute(sql.catchups.REPAIRS).all()


def _wait(progress: Callable[[], object], done: Callable[[], bool]) -> None:
    """Return once it is done.

    :raises DrillError: nothing has changed for a long time.
    """
    pause = threading.Event()
    last, since = progress(), time.monotonic()
    while not done():
        pause.wait(_LOOK)
        now = progress()
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > _STUCK:
            raise DrillError(f"the relay has made no progress for {_STUCK:.0f} s")


def _counters(engine: Engine) -> dict[tuple[str, str, str, str], int]:
    with engine.connect() as connection:
        return read_counters(connection)


def _sum(counted: dict[tuple[str, str, str, str], int], name: str) -> int:
    return sum(value for key, value in counted.items() if key[0] == name)


def _size_of(database: Path) -> int:
    """The size of a database with what is still in its WAL."""
    wal = database.with_name(f"{database.name}-wal")
    return database.stat().st_size + (wal.stat().st_size if wal.exists() else 0)
