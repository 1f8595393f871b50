"""Requests for a catch-up: what can be asked for, however it is asked (HTTP, the command line, MQTT).

A request is hostile until `parse` has read it. `queue` turns it into rows of `arus_catchup`, one an entity,
which the owner plans and expands (`arus.catchup`); `find` and `recent` tell how far each has come.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import orjson
from sqlalchemy import Connection, Row, bindparam, text

from .counters import CATCHUP_REFUSALS, add_to_counters
from .errors import CatchupBusyError, CatchupRequestError, UnknownCatchupError
from .message import iso, iso_or_none, now_ms
from .registry import Registry

logger = logging.getLogger(__name__)

#: Asks for each entity.
ALL = "all"
#: What stands for the entity where a digest of the tables is asked for.
DIGEST_OF_ALL = "*"
#: Items of each entity where a request names no limit.
DEFAULT_LIMIT = 100
#: The highest limit that is not none at all.
MAX_LIMIT = 1_000_000_000
#: Rows are dealt into so many buckets by the hash of their id (`arus.digest`).
BUCKETS = 64
#: Rows of catch-ups that may wait for their turn.
MAX_WAITING = 500
#: Rows of finished catch-ups that are kept.
KEPT = 1_000
#: Bytes of a request over MQTT.
MAX_PAYLOAD = 65_536
#: Characters of a cursor.
MAX_CURSOR = 1_000

_MAX_SEQ = 2**63 - 1
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,64}")
_VESSEL_ID = re.compile(r"[^\x00-\x1f]{1,64}")
_EPOCH = re.compile(r"[0-9A-Za-z-]{1,36}")
# As `arus.catchup` makes them: the mode, the epoch, and the number or the key behind which to go on.
_CURSOR = re.compile(
    r"log\.[0-9A-Za-z-]{1,36}\.s[0-9]{1,18}"
    r"|snapshot\.[0-9A-Za-z-]{1,36}\.(?:s[0-9]{1,18}|k(\"[\x20-\x7e]*\"))"
)
_CATCHUP_ID = re.compile(r"[0-9a-f-]{36}")
_DURATION = re.compile(r"(\d{1,5})\s*([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MODES = ("snapshot", "digest")

_KNOWN = text(
    "SELECT catchup_id FROM arus_catchup WHERE request_id = :request_id ORDER BY id LIMIT 1"
)
_WAITING = text("SELECT COUNT(*) FROM arus_catchup WHERE status = 'queued' AND origin <> 'repair'")
_QUEUE = text(
    "INSERT INTO arus_catchup (catchup_id, request_id, origin, entity, topic, status, since_at,"
    " since_seq, since_epoch, cursor, item_limit, buckets, wants_snapshot, created_at)"
    " VALUES (:catchup_id, :request_id, :origin, :entity, :topic, 'queued', :since_at,"
    " :since_seq, :since_epoch, :cursor, :item_limit, :buckets, :wants_snapshot, :created_at)"
    " ON CONFLICT (request_id, entity) DO NOTHING"
)
_PRUNE = text(
    "DELETE FROM arus_catchup WHERE status IN ('complete', 'failed')"
    " AND id <= (SELECT MAX(id) FROM arus_catchup) - :kept"
)
_FIND = text("SELECT * FROM arus_catchup WHERE catchup_id = :catchup_id ORDER BY id")
_RECENT = text(
    "SELECT * FROM arus_catchup WHERE catchup_id IN :catchup_ids ORDER BY id"
).bindparams(bindparam("catchup_ids", expanding=True))
_RECENT_IDS = text(
    "SELECT catchup_id FROM arus_catchup GROUP BY catchup_id ORDER BY MIN(id) DESC LIMIT :limit"
)


class CatchupState(StrEnum):
    """How far a catch-up has come."""

    #: Waits for the link, or for those before it.
    QUEUED = "queued"
    #: Some of it was sent.
    RUNNING = "running"
    #: The broker has acknowledged all of it.
    COMPLETE = "complete"
    #: It can't be carried out; the reason says why.
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CatchupRequest:
    """What is asked for. Where neither a time, a number nor a cursor is given: everything."""

    #: Name of an entity, or `ALL`.
    entity: str
    #: The asker's own name for it: a request that comes twice is one.
    request_id: str | None = None
    #: The vessel that is asked; None: whichever reads it.
    vessel_id: str | None = None
    #: Changes committed from here on, in milliseconds since the epoch.
    since_at: int | None = None
    #: Changes above this number, of this epoch of the log.
    since_seq: int | None = None
    since_epoch: str | None = None
    #: `next` of the end of an earlier one, which it continues.
    cursor: str | None = None
    #: Items of each entity; None: all.
    limit: int | None = DEFAULT_LIMIT
    #: Only rows in these buckets.
    buckets: tuple[int, ...] | None = None
    #: The rows themselves, also where the log reaches back.
    wants_snapshot: bool = False
    #: No rows at all, but the digest of the tables.
    wants_digest: bool = False


@dataclass(frozen=True, slots=True)
class EntityStatus:
    """How far the catch-up of one entity has come."""

    entity: str
    #: Under the prefix; its messages are on `catchup/<topic>`.
    topic: str
    status: CatchupState
    #: log, snapshot, repair or must_refetch; None until it is planned.
    mode: str | None
    #: Items that the broker has acknowledged.
    published: int
    #: None until it is planned.
    total: int | None
    high_seq: int
    digest: str
    #: The cursor that continues where the limit stopped.
    next: str | None
    #: Why it failed.
    reason: str | None
    #: Milliseconds since the epoch.
    finished_at: int | None

    @property
    def finished(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in {CatchupState.COMPLETE, CatchupState.FAILED}

    def document(self) -> dict[str, Any]:
        """Return it as it stands in JSON."""
        return {
            "entity": self.entity,
            "status": self.status,
            "mode": self.mode,
            "published": self.published,
            "total": self.total,
            "highSeq": self.high_seq,
            "digest": self.digest,
            "next": self.next,
            "reason": self.reason,
            "finishedAt": iso_or_none(self.finished_at),
        }


@dataclass(frozen=True, slots=True)
class CatchupStatus:
    """How far a catch-up has come, over all that it covers."""

    catchup_id: str
    request_id: str | None
    #: http, cli, mqtt or repair.
    origin: str
    #: Milliseconds since the epoch.
    created_at: int
    #: In the order in which they are sent.
    entities: tuple[EntityStatus, ...]

    @property
    def status(self) -> CatchupState:
        """The state of the whole."""
        states = {entity.status for entity in self.entities}
        if len(states) == 1:
            return states.pop()
        return CatchupState.FAILED if self.finished else CatchupState.RUNNING

    @property
    def finished(self) -> bool:
        """Whether nothing more will come of it."""
        return all(entity.finished for entity in self.entities)

    @property
    def published(self) -> int:
        """Items that the broker has acknowledged."""
        return sum(entity.published for entity in self.entities)

    @property
    def total(self) -> int | None:
        """How many items there are; None until all of it is planned."""
        totals = [entity.total for entity in self.entities]
        return None if None in totals else sum(total or 0 for total in totals)

    @property
    def reason(self) -> str | None:
        """Why it failed, where it did."""
        reasons = [f"{entity.entity}: {entity.reason}" for entity in self.entities if entity.reason]
        return "; ".join(reasons) or None

    @property
    def finished_at(self) -> int | None:
        """When the last of it ended, in milliseconds since the epoch; None while it goes on."""
        ends = [entity.finished_at for entity in self.entities]
        return (
            max((end for end in ends if end is not None), default=None) if self.finished else None
        )

    def document(self) -> dict[str, Any]:
        """Return it as it stands in JSON."""
        return {
            "catchupId": self.catchup_id,
            "requestId": self.request_id,
            "origin": self.origin,
            "status": self.status,
            "published": self.published,
            "total": self.total,
            "reason": self.reason,
            "createdAt": iso(self.created_at),
            "finishedAt": iso_or_none(self.finished_at),
            "entities": [entity.document() for entity in self.entities],
        }


def parse(document: object, entities: Collection[str]) -> CatchupRequest:
    """Return what a request asks for; keys that mean nothing here are left alone.

    :param document: the request's JSON, decoded; nothing about it is taken for granted.
    :param entities: the names that there are.
    :raises CatchupRequestError: it is no request that can be carried out; `errors` says why, by key.
    """
    if not isinstance(document, Mapping):
        raise CatchupRequestError({"_schema": ["A JSON object is expected."]})
    reader = _Reader(document)
    mode = reader.read("mode", _mode)
    request = CatchupRequest(
        entity=reader.read("entity", lambda value: _entity(value, entities, mode)) or ALL,
        request_id=reader.read(
            "requestId", _matching(_REQUEST_ID, "1 to 64 printable ASCII characters")
        ),
        vessel_id=reader.read("vesselId", _matching(_VESSEL_ID, "1 to 64 characters")),
        since_at=reader.read("since", _time),
        since_seq=reader.read("sinceSeq", lambda value: _whole(value, 0, _MAX_SEQ)),
        since_epoch=reader.read("epoch", _matching(_EPOCH, "1 to 36 letters, digits and -")),
        cursor=reader.read("cursor", _cursor),
        limit=_limit(reader),
        buckets=reader.read("buckets", _buckets),
        wants_snapshot=mode == "snapshot",
        wants_digest=mode == "digest",
    )
    reader.check(request)
    if reader.errors:
        raise CatchupRequestError(reader.errors)
    return request


def parse_since(given: str, now: datetime | None = None) -> datetime:
    """Return the moment that a person means by `2h`, `3d`, `30m`, `1w` (ago) or by an ISO 8601 time.

    A time without a zone is UTC.

    :raises ValueError: it is neither; the message says what is expected.
    """
    given = given.strip()
    ago = _DURATION.fullmatch(given.lower())
    try:
        if ago:
            length = timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            return max((now or datetime.now(UTC)) - length, datetime(1970, 1, 1, tzinfo=UTC))
        return _moment(given)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{given[:40]!r} is neither a time (2026-11-22T08:00:00Z) nor how long ago"
            " (30m, 2h, 3d, 1w)"
        ) from error


def queue(
    connection: Connection,
    request: CatchupRequest,
    registry: Registry,
    origin: str,
    request_id: str | None = None,
) -> str:
    """Queue a catch-up in the caller's transaction and return its id; a known request's id when it comes again.

    Whoever calls rings the bell after the commit.

    :param origin: http, cli or mqtt.
    :param request_id: takes the place of the request's own.
    :raises CatchupBusyError: too many wait already.
    """
    # The write comes first: on SQLite a transaction that begins by reading may be refused its first write.
    connection.execute(_PRUNE, {"kept": KEPT})
    request_id = request_id or request.request_id
    if request_id is not None and (known := _known(connection, request_id)):
        return known
    wanted = [(r.entity, r.topic) for r in registry if request.entity in {ALL, r.entity}]
    if request.wants_digest:
        wanted = [(DIGEST_OF_ALL, "")]
    if int(connection.execute(_WAITING).scalar_one()) + len(wanted) > MAX_WAITING:
        raise CatchupBusyError
    catchup_id = str(uuid.uuid4())
    created_at = now_ms()
    for entity, topic in wanted:
        inserted = connection.execute(
            _QUEUE,
            {
                "catchup_id": catchup_id,
                "request_id": request_id,
                "origin": origin,
                "entity": entity,
                "topic": topic,
                "since_at": request.since_at,
                "since_seq": request.since_seq,
                "since_epoch": request.since_epoch,
                "cursor": request.cursor,
                "item_limit": request.limit,
                "buckets": None if request.buckets is None else _compact(request.buckets),
                "wants_snapshot": request.wants_snapshot,
                "created_at": created_at,
            },
        ).rowcount
        if not inserted and request_id is not None:
            # The same request came by another way at the same time, and was quicker.
            return _known(connection, request_id) or catchup_id
    return catchup_id


def find(connection: Connection, catchup_id: str) -> CatchupStatus:
    """Return how far a catch-up has come.

    :raises UnknownCatchupError: there is none of this id (any more).
    """
    rows: list[Row[Any]] = []
    # An address or a command line can hold texts that no database takes.
    if _CATCHUP_ID.fullmatch(catchup_id):
        rows = list(connection.execute(_FIND, {"catchup_id": catchup_id}))
    if not rows:
        raise UnknownCatchupError(catchup_id)
    return _status(rows)


def recent(connection: Connection, limit: int = 20) -> list[CatchupStatus]:
    """Return the catch-ups that were asked for last, newest first."""
    ids = list(connection.execute(_RECENT_IDS, {"limit": limit}).scalars())
    found: dict[str, list[Row[Any]]] = {catchup_id: [] for catchup_id in ids}
    if ids:
        for row in connection.execute(_RECENT, {"catchup_ids": ids}):
            found[row.catchup_id].append(row)
    return [_status(rows) for rows in found.values()]


@dataclass(slots=True)
class TokenBucket:
    """Lets a burst pass and then so many a second."""

    burst: float
    per_second: float
    clock: Callable[[], float] = time.monotonic
    _level: float = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self._level = self.burst
        self._at = self.clock()

    def take(self) -> bool:
        """Whether one more may pass now."""
        now = self.clock()
        self._level = min(self.burst, self._level + (now - self._at) * self.per_second)
        self._at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True


class RequestIntake:
    """What comes in on `catchup_requests`: reads it, refuses what is malformed or too much, and counts that.

    :param entities: the names that there are.
    :param vessel_id: our own; requests to another vessel are none of our business.
    """

    BURST = 30
    PER_SECOND = 0.5

    def __init__(
        self,
        entities: Iterable[str],
        vessel_id: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entities = tuple(entities)
        self._vessel_id = vessel_id
        self._bucket = TokenBucket(self.BURST, self.PER_SECOND, clock)
        self._full = False
        #: Refusals that `journal` has not written yet.
        self.refused = 0

    def take(self, payload: bytes) -> CatchupRequest | None:
        """Return what a message asks of this vessel; None when it is refused, or meant for another."""
        try:
            if len(payload) > MAX_PAYLOAD:
                raise CatchupRequestError({"_schema": [f"Larger than {MAX_PAYLOAD} bytes."]})
            document = _decoded(payload)
            if isinstance(document, Mapping) and document.get("vesselId") not in (
                None,
                self._vessel_id,
            ):
                return None
            request = parse(document, self._entities)
        except CatchupRequestError as error:
            # Malformed ones count too: a flood of them must not fill the disk with log lines.
            if self._pass():
                self.refuse(str(error))
            return None
        return request if self._pass() else None

    def journal(self, connection: Connection) -> None:
        """Count what was refused, in the caller's transaction."""
        if self.refused:
            add_to_counters(connection, {(CATCHUP_REFUSALS, "", "", ""): self.refused})
            self.refused = 0

    def refuse(self, reason: str) -> None:
        """Count and log a request that is not carried out."""
        self.refused += 1
        logger.warning("[MQTT Reliable Sync] a request for a catch-up is refused: %s", reason)

    def _pass(self) -> bool:
        if self._bucket.take():
            self._full = False
            return True
        if self._full:
            self.refused += 1
        else:
            self._full = True
            self.refuse("more of them than one in 2 s; ignoring what is too much")
        return False


class _Reader:
    """Reads the keys of a request one by one and collects what is wrong with them."""

    def __init__(self, document: Mapping[Any, Any]) -> None:
        self.document = document
        self.errors: dict[str, list[str]] = {}

    def read(self, key: str, convert: Callable[[Any], Any]) -> Any:
        """Return the value of `key`; None where there is none, null, or not a good one."""
        value = self.document.get(key)
        try:
            # An entity has to be named; all else may be left out.
            return None if value is None and key != "entity" else convert(value)
        except ValueError as error:
            self.errors.setdefault(key, []).append(str(error))
            return None

    def check(self, request: CatchupRequest) -> None:
        """Find what can't be asked for together."""
        given = [key for key in ("since", "sinceSeq", "cursor") if self.has(key)]
        if len(given) > 1:
            for key in given[1:]:
                self.add(key, f"Can't be given together with {given[0]}.")
        if self.has("sinceSeq") and not self.has("epoch"):
            self.add("epoch", "Required with sinceSeq: numbers mean something within their epoch.")
        if self.has("epoch") and not self.has("sinceSeq"):
            self.add("sinceSeq", "Required with epoch.")
        if self.has("cursor") and request.entity == ALL and "entity" not in self.errors:
            self.add("entity", "A cursor continues the catch-up of one entity: name it.")
        if self.has("buckets") and not request.wants_snapshot:
            self.add("buckets", "Only a snapshot can be of some buckets alone.")
        if request.wants_snapshot:
            for key in ("since", "sinceSeq"):
                if self.has(key):
                    self.add(key, "A snapshot is of all rows, whenever they changed.")

    def has(self, key: str) -> bool:
        """Whether something is given, be it good or not."""
        return self.document.get(key) is not None

    def add(self, key: str, message: str) -> None:
        """Note what is wrong with `key`."""
        self.errors.setdefault(key, []).append(message)


def _entity(value: Any, entities: Collection[str], mode: str | None) -> str:
    if value is None and mode == "digest":
        return ALL
    if value is None:
        raise ValueError("Missing data for required field.")
    if not isinstance(value, str) or value not in {ALL, *entities}:
        raise ValueError(f"Must be one of: {', '.join([*entities, ALL])}.")
    if mode == "digest" and value != ALL:
        raise ValueError("A digest is of all entities.")
    return value


def _mode(value: Any) -> str:
    if value not in _MODES:
        raise ValueError(f"Must be one of: {', '.join(_MODES)}.")
    return str(value)


def _matching(pattern: re.Pattern[str], characters: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(f"Must be {characters}.")
        return value

    return convert


def _cursor(value: Any) -> str:
    found = (
        _CURSOR.fullmatch(value) if isinstance(value, str) and len(value) <= MAX_CURSOR else None
    )
    try:
        if found is None or (found[1] is not None and "\0" in orjson.loads(found[1])):
            raise ValueError(value)
    except ValueError as error:
        raise ValueError("Not a cursor of a catch-up.") from error
    return str(value)


def _time(value: Any) -> int:
    try:
        if not isinstance(value, str) or len(value) > 40:
            raise ValueError  # one answer to all that is no time
        moment = _moment(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            "Not a valid time: ISO 8601 is expected, like 2026-11-22T08:00:00.000Z."
        ) from error
    return int(moment.timestamp() * 1000)


def _moment(value: str) -> datetime:
    moment = datetime.fromisoformat(value.strip())
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment.year < 1970:
        raise ValueError(value)
    return moment


def _whole(value: Any, minimum: int, maximum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise ValueError(f"Must be a whole number from {minimum} to {maximum}.")
    return value


def _limit(reader: _Reader) -> int | None:
    """Return the limit: null asks for everything, which is not what leaving it out does."""
    if "limit" not in reader.document:
        return DEFAULT_LIMIT
    limit: int | None = reader.read("limit", lambda value: _whole(value, 1, MAX_LIMIT))
    return limit


def _buckets(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= BUCKETS:
        raise ValueError(f"Must be a list of 1 to {BUCKETS} buckets.")
    return tuple(sorted({_whole(bucket, 0, BUCKETS - 1) for bucket in value}))


def _decoded(payload: bytes) -> object:
    try:
        document: object = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise CatchupRequestError({"_schema": ["Not valid JSON."]}) from error
    return document


def _compact(buckets: tuple[int, ...]) -> str:
    return orjson.dumps(buckets).decode()


def _known(connection: Connection, request_id: str) -> str | None:
    known: str | None = connection.execute(_KNOWN, {"request_id": request_id}).scalar()
    return known


def _status(rows: list[Row[Any]]) -> CatchupStatus:
    first = rows[0]
    return CatchupStatus(
        catchup_id=first.catchup_id,
        request_id=first.request_id,
        origin=first.origin,
        created_at=first.created_at,
        entities=tuple(
            EntityStatus(
                entity=row.entity,
                topic=row.topic,
                status=CatchupState(row.status),
                mode=row.mode,
                published=row.published,
                total=row.total,
                high_seq=row.high_seq,
                digest=row.digest,
                next=row.next_cursor,
                reason=row.reason,
                finished_at=row.finished_at,
            )
            for row in rows
        ),
    )
