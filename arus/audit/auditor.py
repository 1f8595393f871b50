"""The vessel's side of an audit: digests of its tables at exactly one number of the log.

For the relay, which owns an `Auditor` for as long as it owns the session::

    auditor = Auditor(engine.url, registry, app.app_context)
    auditor.request()       # requests a digest ("mode": "digest", `flask sync audit`)
    auditor.include({...})  # the following digests are also over these fields, for a follower that lacks the others
    auditor.step()          # at each poll; starts a digest that is requested or due
    payload = auditor.take()  # what to publish on `system/digest`, retained, QoS 1; or None
    auditor.stop()          # when another process takes over the session

Only `step` starts a digest, in a separate thread; of these calls, only `stop` waits for it. The thread reads in one
snapshot of the database and uses nothing of the relay's.

The number is found as follows: the owner numbers the unnumbered entries of the snapshot next, before those that are
committed later. So the snapshot contains the tables as they are at the last of these numbers. The auditor then checks
that they were numbered in this way; if another transaction was numbered in between (PostgreSQL allows this), it tries
again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping

from msgspec import UNSET, Struct
from sqlalchemy import URL, Connection, Engine

from arus.database import open_engine, reading, translated
from arus.errors import AuditError, LogUnavailableError
from arus.logs import get_logger
from arus.outbox import sql
from arus.protocol.digests import SetDigest
from arus.protocol.encoding import encode
from arus.protocol.messages import Digest, EntityDigest, PartialDigest
from arus.protocol.times import iso, now_ms
from arus.registry import Registration

from .contents import Context, dumped_fields, each_row

logger = get_logger(__name__)

#: Seconds between two periodic digests.
PERIOD = 6 * 3600.0
#: Seconds until an owner's first periodic digest: processes may be replaced more often than once a period.
FIRST = 600.0
#: Seconds before a digest that failed is tried again.
RETRY = 10.0
#: Committed changes that may wait for their numbers when a snapshot begins.
MAX_UNNUMBERED = 5_000
#: Seconds that the owner has for numbering them, and maximum number of snapshots to try.
NUMBERING = 10.0
ATTEMPTS = 10
#: Selections of an entity's fields that digests are also made over; the last requested ones are kept.
MAX_PARTIAL = 4

#: Selections of fields, by entity.
Selections = Mapping[str, Collection[frozenset[str]]]


class Moment(Struct, frozen=True):
    """The state of the log in a snapshot of the database."""

    epoch: str
    vessel_id: str
    #: The number at which the snapshot shows the tables.
    seq: int
    #: The highest number of each topic.
    heads: dict[str, int]


class Auditor:
    """Makes digests in the background, one at a time.

    :param url: of the application's database.
    :param registrations: the models to digest.
    :param context: returns the context that the models' schemas may need (`app.app_context`).
    """

    def __init__(
        self,
        url: str | URL,
        registrations: Iterable[Registration],
        context: Context,
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
        #: When the next periodic digest is due, in monotonic seconds.
        self._due_at = time.monotonic() + first
        #: No digest starts before this time, after a failure; in monotonic seconds.
        self._not_before = 0.0
        self._asked = False
        #: Selections of fields that followers have asked for, the last one at the end.
        self._selections: dict[str, tuple[frozenset[str], ...]] = {}
        self._payload: bytes | None = None
        #: Epoch and number of the last digest.
        self._last: tuple[str, int] | None = None

    def request(self) -> None:
        """Request a digest of the tables as they are now or later. Safe to call from any thread."""
        with self._lock:
            self._asked = True

    def include(self, fields: Mapping[str, Collection[str]]) -> None:
        """Make the following digests also over these fields, by entity. Safe to call from any thread.

        Unknown entities and fields are ignored, so that nobody can have us keep more than a few selections.
        """
        with self._lock:
            for registration in self._registrations:
                known = dumped_fields(registration.schema)
                wanted = frozenset(fields.get(registration.entity, ()))
                if known is None or not known & wanted or known <= wanted:
                    continue
                before = self._selections.get(registration.entity, ())
                others = [one for one in before if one != known & wanted]
                self._selections[registration.entity] = (*others, known & wanted)[-MAX_PARTIAL:]

    def due(self, now: float) -> bool:
        """Whether a digest is requested, or a periodic one due, at `now` (monotonic seconds)."""
        return now >= self._not_before and (self._asked or now >= self._due_at)

    def step(self) -> None:
        """Start a digest that is due, unless one is being made."""
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
        """Return the payload of the digest made since the last call; None if there is none."""
        with self._lock:
            payload, self._payload = self._payload, None
        return payload

    def join(self, timeout: float = 10.0) -> None:
        """Wait for the digest that is being made."""
        if self._thread is not None:
            self._thread.join(timeout)

    def stop(self) -> None:
        """Stop the digest that is being made."""
        self._stopping.set()
        self.join()

    def _run(self, asked: bool) -> None:
        engine = open_engine(self._url)
        try:
            made = self._digest(engine, asked)
        except (AuditError, LogUnavailableError) as error:
            logger.warning("[MQTT Reliable Sync] no digest of the tables: %s", error)
        except Exception:  # the models and schemas are the application's
            logger.exception("[MQTT Reliable Sync] no digest of the tables")
        else:
            if made is not None:
                with self._lock:
                    self._payload = encode(made)
                    self._last = (made.epoch, made.seq)
            return
        finally:
            engine.dispose()
        with self._lock:
            self._not_before = time.monotonic() + RETRY
            self._asked = True

    def _digest(self, engine: Engine, asked: bool) -> Digest | None:
        if not asked:
            with engine.connect() as connection, translated():
                session = connection.execute(sql.session.HEAD).one_or_none()
            if session is None or (session.epoch, session.head_seq) == self._last:
                return None
        with self._lock:
            selections = dict(self._selections)
        return digest(engine, self._registrations, self._context, self._stopping, selections)


def digest(
    engine: Engine,
    registrations: Iterable[Registration],
    context: Context,
    stopping: threading.Event,
    selections: Selections | None = None,
) -> Digest | None:
    """Return the `system/digest` message of the tables; None if it was stopped.

    Needs a running owner, which numbers the committed changes. After each chunk it pauses for as long as reading it
    took, so that requests on board are not slowed down. If a SQLite database is not in WAL mode, writers wait until it is
    done.

    :param engine: from `arus.database.open_engine`.
    :param selections: the fields of partial digests.
    :raises AuditError: changes are committed so fast that no snapshot could be matched to a number.
    :raises LogUnavailableError: the database can't be used.
    """
    for _ in range(ATTEMPTS):
        with reading(engine) as connection:
            moment = find_moment(engine, connection, stopping)
            if moment is None:
                continue
            entities = {}
            for registration in registrations:
                chosen = tuple((selections or {}).get(registration.entity, ()))
                entities[registration.entity] = _entity_digest(
                    connection, registration, context, stopping, moment, chosen
                )
                if stopping.is_set():
                    return None
        return Digest(
            vessel_id=moment.vessel_id,
            epoch=moment.epoch,
            seq=moment.seq,
            timestamp=iso(now_ms()),
            entities=entities,
        )
    if stopping.is_set():
        return None
    raise AuditError


def _entity_digest(
    connection: Connection,
    registration: Registration,
    context: Context,
    stopping: threading.Event,
    moment: Moment,
    chosen: Collection[frozenset[str]],
) -> EntityDigest:
    """Return the digest of one table, over all fields and over the chosen selections of them."""
    whole = SetDigest()
    parts = [(fields, SetDigest()) for fields in chosen]
    for row in each_row(connection, registration, context, stopping):
        whole.add(row.row_id, row.version, row.hash())
        for fields, part in parts:
            part.add(row.row_id, row.version, row.hash(fields))
    known = dumped_fields(registration.schema)
    return EntityDigest(
        topic=registration.topic,
        last_seq=moment.heads.get(registration.topic, 0),
        count=whole.count,
        digest=whole.digest,
        buckets=tuple(whole.buckets),
        fields=UNSET if known is None else tuple(sorted(known)),
        partial=tuple(
            PartialDigest(
                fields=tuple(sorted(fields)), digest=part.digest, buckets=tuple(part.buckets)
            )
            for fields, part in parts
        )
        or UNSET,
    )


def find_moment(engine: Engine, connection: Connection, stopping: threading.Event) -> Moment | None:
    """Return at which number of the log a snapshot is; None if there is none, or it is not known in time.

    :param connection: reads in the snapshot.
    :param engine: for connections that see later commits.
    """
    session = connection.execute(sql.session.HEAD).one_or_none()
    if session is None:
        stopping.wait(0.1)
        return None
    heads = {row.topic: row.head_seq for row in connection.execute(sql.topic_queues.HEADS)}
    waiting = connection.execute(sql.entries.UNNUMBERED_TOPICS, {"limit": MAX_UNNUMBERED + 1}).all()
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
            entries = [row for row in now.execute(sql.entries.NUMBERS, span) if row.id in ids]
            epoch = now.execute(sql.session.HEAD).one().epoch
        if len(entries) == len(ids) and all(entry.seq is not None for entry in entries):
            wanted = set(range(session.head_seq + 1, session.head_seq + len(ids) + 1))
            if {entry.seq for entry in entries} != wanted or epoch != session.epoch:
                return None
            for entry in entries:
                heads[entry.topic] = max(heads.get(entry.topic, 0), entry.seq)
            return Moment(epoch, session.vessel_id, max(wanted), heads)
    return None
