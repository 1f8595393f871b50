"""Requests for a catch-up (by HTTP, the command line or MQTT), and their progress.

A request is untrusted until `arus.protocol.requests` has read it (`arus.catchup.limiter`). `queue` turns it into rows of `arus_catchup`, one
for each entity, which the owner plans and sends (`arus.catchup.sender`); `find` and `recent` return the progress.
"""

from __future__ import annotations

import re
import uuid
from enum import StrEnum
from typing import Any

import orjson
from msgspec import Struct
from sqlalchemy import Connection, Row

from arus.errors import CatchupBusyError, UnknownCatchupError
from arus.outbox import sql
from arus.outbox.followers import is_known
from arus.protocol.messages import ALL, CatchupRequest
from arus.protocol.times import iso, iso_or_none, now_ms
from arus.registry import Registry

#: Placeholder for the entity in a request for a digest of the tables.
DIGEST_OF_ALL = "*"
#: Rows of catch-ups that may be queued, and those of one requester. A known follower that has none queued may
#: always queue one catch-up.
MAX_WAITING = 500
MAX_SHARE = 250
#: Rows of finished catch-ups that are kept.
KEPT = 1_000
#: Of PostgreSQL's lock on requests that are being queued.
_REQUESTS_KEY = 4203150412
_CATCHUP_ID = re.compile(r"[0-9a-f-]{36}")


class CatchupState(StrEnum):
    """The state of a catch-up."""

    #: Waits for a connection, or for earlier catch-ups.
    QUEUED = "queued"
    #: Some of it was sent.
    RUNNING = "running"
    #: The broker has acknowledged all of it.
    COMPLETE = "complete"
    #: It can't be carried out; the reason says why.
    FAILED = "failed"


class EntityStatus(Struct, frozen=True):
    """The progress of the catch-up of one entity."""

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
    #: The cursor to continue after the limit.
    next: str | None
    #: Why it failed.
    reason: str | None
    #: Milliseconds since the epoch.
    finished_at: int | None

    @property
    def finished(self) -> bool:
        """Whether it is complete or failed."""
        return self.status in {CatchupState.COMPLETE, CatchupState.FAILED}

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
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


class CatchupStatus(Struct, frozen=True):
    """The progress of a catch-up, over all its entities."""

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
        """The state over all entities."""
        states = {entity.status for entity in self.entities}
        if len(states) == 1:
            return states.pop()
        return CatchupState.FAILED if self.finished else CatchupState.RUNNING

    @property
    def finished(self) -> bool:
        """Whether all of it is complete or failed."""
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
        """Why it failed; None if it did not."""
        reasons = [f"{entity.entity}: {entity.reason}" for entity in self.entities if entity.reason]
        return "; ".join(reasons) or None

    @property
    def finished_at(self) -> int | None:
        """When its last entity finished, in milliseconds since the epoch; None until then."""
        ends = [entity.finished_at for entity in self.entities]
        return (
            max((end for end in ends if end is not None), default=None) if self.finished else None
        )

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
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


def queue(
    connection: Connection,
    request: CatchupRequest,
    registry: Registry,
    origin: str,
    request_id: str | None = None,
) -> str:
    """Queue a catch-up in the caller's transaction and return its id; a repeated request returns the first one's id.

    Without a request id, an identical request that is still queued is the same: by HTTP and by command its requester
    learns the id from us, and over MQTT nobody told the two answers apart. Requests with different request ids stay apart, because each id is named in the messages of its own answer.
    The caller notifies the owner after the commit.

    :param origin: http, cli or mqtt.
    :param request_id: replaces the request's own.
    :raises CatchupBusyError: too many are queued already.
    """
    # The write comes first: on SQLite the first write of a transaction that begins with a read may fail.
    connection.execute(sql.catchups.TRIM, {"kept": KEPT})
    request_id = request_id or request.request_id
    if request_id is not None and (known := known_request(connection, request_id)):
        return known
    wanted = [(r.entity, r.topic) for r in registry if request.entity in {ALL, r.entity}]
    if request.mode == "digest":
        wanted = [(DIGEST_OF_ALL, "")]
    details = _details(request)
    consumer = request.consumer if origin == "mqtt" else None
    if request_id is None:
        asked_by = (origin == "mqtt", consumer)
        if identical := _identical(connection, {one for one, _ in wanted}, details, asked_by):
            return identical
    requester = requester_of(connection, consumer, origin)
    _check_room(connection, requester, len(wanted))
    rows = {
        **details,
        "catchup_id": str(uuid.uuid4()),
        "request_id": request_id,
        "origin": origin,
        "consumer": consumer,
        "requester": requester,
        "receive_window": request.window if consumer is not None else None,
        "created_at": now_ms(),
    }
    for entity, topic in wanted:
        row = {**rows, "entity": entity, "topic": topic}
        inserted = connection.execute(sql.catchups.QUEUE, row).rowcount
        if not inserted and request_id is not None:
            # The same request was queued at the same time over another channel.
            return known_request(connection, request_id) or rows["catchup_id"]
    return str(rows["catchup_id"])


def requester_of(connection: Connection, consumer: str | None, origin: str) -> str:
    """Return with whom a request shares the queue and the rate: anybody may invent names of consumers.

    :returns: the consumer's name if it is a follower that has reported a watermark, otherwise the origin.
    """
    if consumer is not None and is_known(connection, consumer):
        return consumer
    return f"/{origin}"  # no follower's name


def known_request(connection: Connection, request_id: str) -> str | None:
    """Return the id of the catch-up that was queued for a request id; None if there is none (any more)."""
    known: str | None = connection.execute(sql.catchups.KNOWN, {"request_id": request_id}).scalar()
    return known


def _details(request: CatchupRequest) -> dict[str, Any]:
    return {
        "since_at": request.since_at,
        "since_seq": request.since_seq,
        "since_epoch": request.epoch,
        "cursor": request.cursor,
        "item_limit": request.limit,
        "buckets": None if request.buckets is None else _compact(request.buckets),
        "wants_snapshot": request.mode == "snapshot",
    }


def _identical(
    connection: Connection,
    entities: set[str],
    details: dict[str, Any],
    asked_by: tuple[bool, str | None],
) -> str | None:
    """Return the id of a queued catch-up of the same entities and details, none of which has begun.

    :param asked_by: whether it came over MQTT, and the consumer; a request over MQTT with an id is not identical.
    """
    if connection.dialect.name == "postgresql":
        # Two identical requests at the same time wait for one another; SQLite has only one writer.
        connection.execute(sql.database.LOCK_IN_TRANSACTION, {"key": _REQUESTS_KEY})
    found: dict[str, set[str]] = {}
    for row in connection.execute(sql.catchups.QUEUED).mappings():
        is_mqtt = row["origin"] == "mqtt"
        if (is_mqtt, row["consumer"]) != asked_by or (is_mqtt and row["request_id"] is not None):
            continue
        if all(row[name] == value for name, value in details.items()):
            found.setdefault(row["catchup_id"], set()).add(row["entity"])
    return next((catchup_id for catchup_id, queued in found.items() if queued == entities), None)


def _check_room(connection: Connection, requester: str, rows: int) -> None:
    waiting = {row.requester: row.rows for row in connection.execute(sql.catchups.WAITING)}
    own = waiting.get(requester, 0)
    if not own and not requester.startswith("/"):
        return
    if own + rows > MAX_SHARE or sum(waiting.values()) + rows > MAX_WAITING:
        raise CatchupBusyError


def find(connection: Connection, catchup_id: str) -> CatchupStatus:
    """Return the progress of a catch-up.

    :raises UnknownCatchupError: there is none with this id (any more).
    """
    rows: list[Row[Any]] = []
    # A URL or a command line can contain text that a database rejects.
    if _CATCHUP_ID.fullmatch(catchup_id):
        rows = list(connection.execute(sql.catchups.FIND, {"catchup_id": catchup_id}))
    if not rows:
        raise UnknownCatchupError(catchup_id)
    return _status(rows)


def recent(connection: Connection, limit: int = 20) -> list[CatchupStatus]:
    """Return the latest catch-ups, newest first."""
    ids = list(connection.execute(sql.catchups.RECENT_IDS, {"limit": limit}).scalars())
    found: dict[str, list[Row[Any]]] = {catchup_id: [] for catchup_id in ids}
    if ids:
        for row in connection.execute(sql.catchups.RECENT, {"catchup_ids": ids}):
            found[row.catchup_id].append(row)
    return [_status(rows) for rows in found.values()]


def _compact(buckets: tuple[int, ...]) -> str:
    return orjson.dumps(buckets).decode()


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
