"""Catch-ups: the present state of rows that a receiver has missed, sent beside the live changes.

A catch-up is a row of `arus_catchup`, expanded a chunk at a time when the link has room, and continued after
any crash behind the last chunk that was acknowledged. Its messages are QoS 1 and not retained; a receiver
applies an item only where its version is newer, so a repeated one does no harm.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import Connection, text

from .message import Entry, encode_catchup, now_ms
from .overflow import UNREPAIRED
from .topics import CATCHUP

if TYPE_CHECKING:
    from .changelog import ChangeLog

logger = logging.getLogger(__name__)

#: Items sent before their acknowledgements are waited for and journalled.
CHUNK = 200

_UNREPAIRED_ENTITIES = text(
    "SELECT DISTINCT entity, topic FROM arus_change"
    " WHERE outcome = 'dropped' AND reason = :unrepaired"
)
# The last change of a row holds its present state. Where that one was not dropped it will be, or was,
# delivered itself. One that a person discarded tells receivers nothing.
_CLAIM = text(
    "UPDATE arus_change SET reason = :claimed WHERE outcome = 'dropped' AND reason = :unrepaired"
    " AND entity = :entity AND NOT EXISTS (SELECT 1 FROM arus_change n"
    " WHERE n.entity = arus_change.entity AND n.row_id = arus_change.row_id"
    " AND n.id > arus_change.id AND (n.outcome IS NULL"
    " OR (n.outcome = 'dropped' AND n.reason NOT LIKE 'discarded%')))"
)
_COVERED = text(
    "UPDATE arus_change SET reason = 'queue full; a newer change tells the state'"
    " WHERE outcome = 'dropped' AND reason = :unrepaired AND entity = :entity"
)
_QUEUE = text(
    "INSERT INTO arus_catchup"
    " (catchup_id, origin, entity, topic, status, mode, high_seq, total, created_at)"
    " VALUES (:catchup_id, 'repair', :entity, :topic, 'queued', 'repair', :high_seq, :total, :now)"
)
_NEXT = text(
    "SELECT id, catchup_id, request_id, entity, topic, after_id, high_seq, total, published, digest"
    " FROM arus_catchup WHERE status IN ('queued', 'running') ORDER BY id LIMIT 1"
)
_ITEMS = text(
    "SELECT id, seq, previous_seq, message_id, topic, qos, entity, operation, row_id, version,"
    " committed_at, data FROM arus_change"
    " WHERE outcome = 'dropped' AND id > :after AND reason = :claimed ORDER BY id LIMIT :limit"
)
_PROGRESS = text(
    "UPDATE arus_catchup SET status = :status, after_id = :after_id, published = :published,"
    " digest = :digest WHERE id = :id"
)
_REPAIRED = text(
    "UPDATE arus_change SET reason = 'queue full; repaired by catch-up'"
    " WHERE outcome = 'dropped' AND reason = :claimed"
)


@dataclass(slots=True)
class Run:
    """One catch-up on its way."""

    id: int
    catchup_id: str
    request_id: str | None
    entity: str
    topic: str
    #: The last acknowledged item.
    after_id: int
    high_seq: int
    total: int
    #: Items acknowledged.
    published: int
    digest: str

    @property
    def claimed(self) -> str:
        """What marks the items of this catch-up in the log."""
        return f"repair {self.catchup_id}"


def plan_repairs(connection: Connection, *, head_seq: int) -> int:
    """Queue a catch-up for each entity of which changes were dropped; return how many.

    To be called in the owner's transaction.
    """
    entities = connection.execute(_UNREPAIRED_ENTITIES, {"unrepaired": UNREPAIRED}).all()
    for entity, topic in entities:
        catchup_id = str(uuid.uuid4())
        wanted = {"entity": entity, "unrepaired": UNREPAIRED, "claimed": f"repair {catchup_id}"}
        claimed = connection.execute(_CLAIM, wanted).rowcount
        connection.execute(_COVERED, {"entity": entity, "unrepaired": UNREPAIRED})
        if claimed:
            job = {"catchup_id": catchup_id, "entity": entity, "topic": topic, "total": claimed}
            connection.execute(_QUEUE, {**job, "high_seq": head_seq, "now": now_ms()})
    return len(entities)


class Catchups:
    """Expands queued catch-ups, one after the other. Lives in the relay's thread."""

    def __init__(self, log: ChangeLog) -> None:
        self._log = log
        self._run: Run | None = None
        #: Packet ids of the chunk on its way.
        self._outstanding: set[int] = set()
        #: Messages of the chunk that wait for room in the window: topic and payload.
        self.waiting: deque[tuple[str, bytes]] = deque()
        #: The chunk on its way: how far the run will have come once it is acknowledged.
        self._coming: Run | None = None
        self._done = False
        #: The broker takes no catch-up in this connection.
        self._refused = False
        #: A catch-up may be waiting.
        self.look = True

    def forget(self) -> None:
        """Forget what is not journalled: the connection has ended."""
        self._run = None
        self._coming = None
        self._done = False
        self._refused = False
        self._outstanding.clear()
        self.waiting.clear()
        self.look = True

    @property
    def ready(self) -> bool:
        """Whether a chunk can be sent."""
        if self._refused or self._outstanding or self._coming is not None:
            return False
        return self.look or self._run is not None

    def messages(self, connection: Connection) -> list[tuple[str, bytes]]:
        """Return the topics and payloads of the next chunk; to be sent as the window has room."""
        if self._run is None:
            row = connection.execute(_NEXT).mappings().one_or_none()
            self.look = row is not None
            if row is None:
                return []
            self._run = Run(**row)
        run = self._run
        entries = self._log.entries(
            connection.execute(
                _ITEMS, {"after": run.after_id, "claimed": run.claimed, "limit": CHUNK}
            ).mappings()
        )
        return self._encode(run, entries)

    def _encode(self, run: Run, entries: list[Entry]) -> list[tuple[str, bytes]]:
        topic = f"{CATCHUP}/{run.topic}"
        payloads = []
        if run.published == 0:
            payloads.append(self._begin(run))
        digest = run.digest
        for sequence, entry in enumerate(entries, run.published):
            payloads.append(
                encode_catchup(
                    entry,
                    epoch=self._log.epoch,
                    vessel_id=self._log.vessel_id,
                    catchup_id=run.catchup_id,
                    sequence=sequence,
                    total=run.total,
                )
            )
            digest = chain(digest, entry)
        published = run.published + len(entries)
        self._done = len(entries) < CHUNK or published >= run.total
        self._coming = Run(
            run.id, run.catchup_id, run.request_id, run.entity, run.topic,
            entries[-1].id if entries else run.after_id,
            run.high_seq, run.total, published, digest,
        )  # fmt: skip
        if self._done:
            payloads.append(self._end(self._coming))
        return [(topic, payload) for payload in payloads]

    def _begin(self, run: Run) -> bytes:
        return orjson.dumps(
            {
                "type": "catchup_begin",
                "catchupId": run.catchup_id,
                "requestId": run.request_id,
                "entity": run.entity,
                "epoch": self._log.epoch,
                "mode": "log",
                "highSeq": run.high_seq,
                "total": run.total,
            }
        )

    def _end(self, run: Run) -> bytes:
        return orjson.dumps(
            {
                "type": "catchup_end",
                "catchupId": run.catchup_id,
                "total": run.total,
                "highSeq": run.high_seq,
                "digest": run.digest,
                "next": None,
            }
        )

    def sent(self, packet_id: int) -> None:
        """Note the packet id of a message of the chunk."""
        self._outstanding.add(packet_id)

    def acknowledged(self, packet_id: int, reason: int) -> None:
        """Take an acknowledgement of whatever message.

        A refusal ends the run for this connection: the rows' state is owed until the broker takes it.
        """
        if packet_id not in self._outstanding:
            return
        if reason >= 0x80 and not self._refused:
            logger.error(
                "[MQTT Reliable Sync] the broker refuses the catch-up topic (reason code 0x%02x);"
                " trying again with the next connection",
                reason,
            )
            self.forget()
            self._refused = True
        self._outstanding.discard(packet_id)

    @property
    def due(self) -> bool:
        """Whether an acknowledged chunk waits to be journalled."""
        return self._coming is not None and not self._outstanding and not self.waiting

    def journal(self, connection: Connection) -> Run | None:
        """Write how far the run has come; return it when it is complete."""
        run = self._coming
        if run is None:
            return None
        connection.execute(
            _PROGRESS,
            {
                "status": "complete" if self._done else "running",
                "after_id": run.after_id,
                "published": run.published,
                "digest": run.digest,
                "id": run.id,
            },
        )
        if self._done:
            connection.execute(_REPAIRED, {"claimed": run.claimed})
        self._run = None if self._done else run
        self.look = self.look or self._done
        self._coming = None
        return run if self._done else None


def chain(digest: str, entry: Entry) -> str:
    """Return the digest of a sequence of items that ends with `entry`: SHA-256, hexadecimal, chained."""
    item: Any = f"{digest}{entry.entity}/{entry.row_id}/{entry.version}/{entry.operation}"
    return hashlib.sha256(item.encode()).hexdigest()
