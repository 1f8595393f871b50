"""The vessel's side of an audit: what its tables were at exactly one number of the log.

For the relay, which owns an `Auditor` for as long as it owns the session::

    auditor = Auditor(engine.url, registry, app.app_context)
    auditor.request()       # somebody asks for a digest ("mode": "digest", `flask sync audit`)
    auditor.step()          # at each poll; begins what was asked for, or is due by itself
    payload = auditor.take()  # what to publish on `system/digest`, retained, QoS 1; or None
    auditor.stop()          # when the session is given up

Only `step` begins anything, in a thread of its own; none of the calls waits. The thread reads in one
snapshot of the database and touches nothing of the relay's.

The number is found like this: of what the snapshot holds and the owner has not numbered yet, all is numbered
next, before what was committed later. So the tables of the snapshot are those at the last of these numbers;
that it came so is looked up, and a transaction that slipped in between (on PostgreSQL it may) means trying again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import URL, Connection, Engine, select, text
from sqlalchemy.orm import Session

from .database import open_engine, translated
from .digest import UNKNOWN, SetDigest, row_hash
from .errors import AuditError, LogUnavailableError
from .message import iso, now_ms
from .registry import Registration
from .snapshot import reading

logger = logging.getLogger(__name__)

#: Rows that are read at once.
CHUNK = 200
#: Seconds between two digests that nobody asked for.
PERIOD = 6 * 3600.0
#: Seconds until the first of an owner: processes may be replaced more often than a period.
FIRST = 600.0
#: Seconds before a digest that failed is tried again.
RETRY = 10.0
#: Committed changes that may wait for their numbers when a snapshot begins.
MAX_UNNUMBERED = 5_000
#: Seconds that the owner has for numbering them, and snapshots that are tried.
NUMBERING = 10.0
ATTEMPTS = 10

_SESSION = text("SELECT epoch, vessel_id, head_seq FROM arus_session WHERE id = 1")
_LANES = text("SELECT topic, head_seq FROM arus_lane")
_UNNUMBERED = text(
    "SELECT id, topic FROM arus_change WHERE seq IS NULL AND outcome IS NULL ORDER BY id LIMIT :limit"
)
_NUMBERS = text("SELECT id, topic, seq FROM arus_change WHERE id >= :first AND id <= :last")


@dataclass(frozen=True, slots=True)
class Moment:
    """What a snapshot of the database shows of the log."""

    epoch: str
    vessel_id: str
    #: The number at which the tables are.
    seq: int
    #: The highest number of each topic.
    heads: dict[str, int]


class Auditor:
    """Makes digests beside the relay, one at a time.

    :param url: of the application's database.
    :param registrations: what is digested.
    :param context: what the models' schemas may need around them (`app.app_context`).
    """

    def __init__(
        self,
        url: str | URL,
        registrations: Iterable[Registration],
        context: Callable[[], AbstractContextManager[Any]],
        *,
        period: float = PERIOD,
        first: float = FIRST,
    ) -> None:
        self._url = url
        self._registrations = registrations
        self._context = context
        self._period = period
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        #: Monotonic seconds at which the next begins by itself.
        self._due_at = time.monotonic() + first
        #: Monotonic seconds before which none begins, after a failure.
        self._not_before = 0.0
        self._asked = False
        self._payload: bytes | None = None
        #: Epoch and number of the last digest.
        self._last: tuple[str, int] | None = None

    def request(self) -> None:
        """Ask for a digest of the tables as they are now or later. Safe from any thread."""
        with self._lock:
            self._asked = True

    def due(self, now: float) -> bool:
        """Whether a digest is asked for, or due by itself, at `now` (monotonic seconds)."""
        return now >= self._not_before and (self._asked or now >= self._due_at)

    def step(self) -> None:
        """Begin what is due, unless one is being made."""
        now = time.monotonic()
        if self._stopping.is_set() or not self.due(now):
            return
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            asked, self._asked = self._asked, False
        self._due_at = now + self._period
        self._thread = threading.Thread(
            target=self._run, args=(asked,), name="arus auditor", daemon=True
        )
        self._thread.start()

    def take(self) -> bytes | None:
        """Return the payload that has come since the last call."""
        with self._lock:
            payload, self._payload = self._payload, None
        return payload

    def join(self, timeout: float = 10.0) -> None:
        """Wait for the digest that is being made."""
        if self._thread is not None:
            self._thread.join(timeout)

    def stop(self) -> None:
        """Give up what is being made."""
        self._stopping.set()
        self.join()

    def _run(self, asked: bool) -> None:
        engine = open_engine(self._url)
        try:
            document = self._digest(engine, asked)
        except (AuditError, LogUnavailableError) as error:
            logger.warning("[MQTT Reliable Sync] no digest of the tables: %s", error)
        except Exception:  # the models and schemas are the application's
            logger.exception("[MQTT Reliable Sync] no digest of the tables")
        else:
            if document is not None:
                with self._lock:
                    self._payload = orjson.dumps(document)
                    self._last = (document["epoch"], document["seq"])
            return
        finally:
            engine.dispose()
        with self._lock:
            self._not_before = time.monotonic() + RETRY
            self._asked = True

    def _digest(self, engine: Engine, asked: bool) -> dict[str, Any] | None:
        if not asked:
            with engine.connect() as connection, translated():
                session = connection.execute(_SESSION).one_or_none()
            if session is None or (session.epoch, session.head_seq) == self._last:
                return None
        return digest(engine, self._registrations, self._context, self._stopping)


def digest(
    engine: Engine,
    registrations: Iterable[Registration],
    context: Callable[[], AbstractContextManager[Any]],
    stopping: threading.Event,
) -> dict[str, Any] | None:
    """Return the `system/digest` message of the tables; None when stopped meanwhile.

    Needs an owner at work, which numbers what was committed. It rests as long as it reads: those who serve
    the ship's people are not to feel it. Where a SQLite database is not in WAL mode, writers wait
    for the whole of it.

    :param engine: from `arus.database.open_engine`.
    :raises AuditError: the log moves on so fast that no snapshot could be given a number.
    :raises LogUnavailableError: the database can't be used.
    """
    for _ in range(ATTEMPTS):
        with reading(engine) as connection:
            moment = find_moment(engine, connection, stopping)
            if moment is None:
                continue
            entities = {}
            for registration in registrations:
                rows = SetDigest()
                for row_id, version, content in each_row(
                    connection, registration, context, stopping
                ):
                    rows.add(row_id, version, content)
                if stopping.is_set():
                    return None
                entities[registration.entity] = {
                    "topic": registration.topic,
                    "lastSeq": moment.heads.get(registration.topic, 0),
                    "count": rows.count,
                    "digest": rows.digest,
                    "buckets": rows.buckets,
                }
        return {
            "type": "digest",
            "vesselId": moment.vessel_id,
            "epoch": moment.epoch,
            "seq": moment.seq,
            "timestamp": iso(now_ms()),
            "entities": entities,
        }
    if stopping.is_set():
        return None
    raise AuditError


def find_moment(engine: Engine, connection: Connection, stopping: threading.Event) -> Moment | None:
    """Return at which number of the log a snapshot is; None when it is at none, or that isn't known in time.

    :param connection: reads in the snapshot.
    :param engine: makes connections that see what has happened since.
    """
    session = connection.execute(_SESSION).one_or_none()
    if session is None:
        stopping.wait(0.1)
        return None
    heads = {row.topic: row.head_seq for row in connection.execute(_LANES)}
    waiting = connection.execute(_UNNUMBERED, {"limit": MAX_UNNUMBERED + 1}).all()
    if len(waiting) > MAX_UNNUMBERED:
        stopping.wait(0.5)
        return None
    if not waiting:
        return Moment(session.epoch, session.vessel_id, session.head_seq, heads)
    ids = {row.id for row in waiting}
    span = {"first": waiting[0].id, "last": waiting[-1].id}
    deadline = time.monotonic() + NUMBERING
    while time.monotonic() < deadline and not stopping.wait(0.05):
        with engine.connect() as now:
            entries = [row for row in now.execute(_NUMBERS, span) if row.id in ids]
            epoch = now.execute(_SESSION).one().epoch
        if len(entries) == len(ids) and all(entry.seq is not None for entry in entries):
            wanted = set(range(session.head_seq + 1, session.head_seq + len(ids) + 1))
            if {entry.seq for entry in entries} != wanted or epoch != session.epoch:
                return None
            for entry in entries:
                heads[entry.topic] = max(heads.get(entry.topic, 0), entry.seq)
            return Moment(epoch, session.vessel_id, max(wanted), heads)
    return None


def each_row(
    connection: Connection,
    registration: Registration,
    context: Callable[[], AbstractContextManager[Any]],
    stopping: threading.Event,
) -> Iterator[tuple[str, int, str]]:
    """Yield id, version and content hash of each row of a table, a chunk at a time; ends when stopped."""
    key = getattr(registration.model, registration.key)
    statement = select(registration.model).order_by(key).limit(CHUNK)
    session = Session(connection)
    last: Any = None
    while not stopping.is_set():
        began = time.monotonic()
        page = statement if last is None else statement.where(key > last)
        with context(), translated():
            rows = session.scalars(page).all()
            found = [
                (
                    registration.row_id(row),
                    int(getattr(row, registration.version) or 0),
                    content_of(registration, row),
                )
                for row in rows
            ]
            last = getattr(rows[-1], registration.key) if rows else None
        session.expunge_all()
        yield from found
        if len(rows) < CHUNK:
            return
        stopping.wait(time.monotonic() - began)


def content_of(registration: Registration, row: Any) -> str:
    """Return the hash of a row as messages carry it; `UNKNOWN` where it can't be serialised."""
    try:
        return row_hash(orjson.loads(registration.serialise(row)))
    except Exception:  # noqa: BLE001  # the schema is the application's; such a row is quarantined
        return UNKNOWN
