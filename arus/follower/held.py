"""Held changes: those that the database does not accept yet, because of another row.

What a change waits for are rows: parents that have not arrived, the row that has its unique value, or a row that still
refers to the one it deletes. When one of them is written or deleted, the change is tried again. Where they are not known,
and in case one was written by somebody else, a change is also tried after pauses that grow. Changes that wait for each
other are written together (`arus.follower.circles`).
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection

from arus.logs import get_logger
from arus.protocol.rows import decode_row, encode_row
from arus.protocol.times import now_ms

from . import sql
from .messages import Change
from .sql.build import Some, execute_for

logger = get_logger(__name__)

#: Maximum number of held changes of a vessel, and of all vessels; bytes of the rows likewise.
MAX_HELD = 10_000
MAX_HELD_IN_ALL = 100_000
MAX_HELD_BYTES = 64 * 1_048_576
#: Seconds before a change is tried again, if it is known what it waits for, and if not; doubled each time.
_PAUSE_KNOWN, _PAUSE_UNKNOWN, _LONGEST_PAUSE = 60.0, 1.0, 3_600.0

#: The key of a held change: vessel, entity, row id.
HeldKey = tuple[str, str, str]


class Held(Struct, frozen=True):
    """A change that the database does not accept yet."""

    vessel_id: str
    entity: str
    row_id: str
    version: int
    seq: int
    operation: str
    data: dict[str, Any]
    mark: int


class _Entry(Struct, frozen=True):
    """What is kept in memory of a held change."""

    version: int
    #: The rows that it waits for (`row_name`); none if they are not known.
    waits_for: tuple[str, ...]
    tries: int
    #: When it is tried again in any case, in milliseconds.
    next_at: int
    #: Bytes of its row.
    size: int


class HeldChanges:
    """The held changes of all vessels. Used by the follower's thread, in its transactions.

    :param connection: of `arus.database.open_engine`.
    :param vessels: ids of the vessels whose changes are read; None for all.
    """

    def __init__(self, connection: Connection, vessels: Some = None) -> None:
        self._connection = connection
        self._entries: dict[HeldKey, _Entry] = {}
        self._waiting: dict[str, dict[HeldKey, None]] = defaultdict(dict)
        self._counts: dict[str, int] = defaultdict(int)
        self._bytes: dict[str, int] = defaultdict(int)
        #: Changes whose row was written, in the order in which they are tried.
        self._ready: dict[HeldKey, None] = {}
        #: Times of the next tries; entries that have changed since are skipped.
        self._times: list[tuple[int, HeldKey]] = []
        #: Changes that `due` has returned, and that were not held again since.
        self._trying: set[HeldKey] = set()
        #: Changes that may have closed a circle: they were held and not returned by `next_new` since.
        self._new: dict[HeldKey, None] = {}
        #: Vessels at the bound, for which that was logged.
        self._full: set[str] = set()
        for row in execute_for(connection, sql.held.INDEX, sql.held.INDEX_OF, vessels):
            key = (row.vessel_id, row.entity, row.row_id)
            waits_for = tuple(filter(None, row.waits_for.split("\n")))
            self._remember(key, _Entry(row.version, waits_for, row.tries, row.next_at, row.size))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: HeldKey) -> bool:
        return key in self._entries

    def hold(self, change: Change, mark: int, reason: str, waits_for: Iterable[str]) -> bool:
        """Save a change that the database does not accept yet; return False if too many are held.

        :param waits_for: `row_name` of each row that it waits for; none if they are not known.
        """
        rows = tuple(dict.fromkeys(waits_for))
        key = (change.vessel_id, change.entity, change.row_id)
        data = encode_row(change.data)
        before = self._entries.get(key)
        if before is None and not self._has_room(change.vessel_id, len(data)):
            return False
        tries = before.tries + 1 if before else 0
        first = _PAUSE_KNOWN if rows else _PAUSE_UNKNOWN
        now = now_ms()
        next_at = now + int(1000 * min(first * 2.0 ** min(tries, 20), _LONGEST_PAUSE))
        self._trying.discard(key)
        self._forget(key)
        self._remember(key, _Entry(change.version, rows, tries, next_at, len(data)))
        self._new[key] = None
        self._connection.execute(
            sql.held.HOLD,
            {
                "vessel_id": change.vessel_id,
                "entity": change.entity,
                "row_id": change.row_id,
                "version": change.version,
                "seq": change.seq,
                "operation": change.operation,
                "data": data,
                "mark": mark,
                "reason": reason,
                "held_at": now,
                "waits_for": "\n".join(rows),
                "tries": tries,
                "next_at": next_at,
            },
        )
        return True

    def _has_room(self, vessel_id: str, size: int) -> bool:
        count, held = self._counts[vessel_id], self._bytes[vessel_id]
        if (
            count < MAX_HELD
            and len(self._entries) < MAX_HELD_IN_ALL
            and held + size <= MAX_HELD_BYTES
        ):
            return True
        if vessel_id not in self._full:
            self._full.add(vessel_id)
            logger.error(
                "[MQTT Reliable Sync] %d changes of %s (%d bytes) are held already: further ones are left to the audit",
                count,
                vessel_id,
                held,
            )
        return False

    def written(self, rows: Iterable[str]) -> None:
        """Note that rows were written or deleted: the changes that wait for them are ready.

        :param rows: `row_name` of each.
        """
        if self._waiting:
            for name in rows:
                if waiting := self._waiting.get(name):
                    self._ready.update(waiting)

    def has_due(self) -> bool:
        """Whether changes are to be tried now."""
        if self._ready or self._new:
            return True
        return bool(self._times and self._times[0][0] <= now_ms())

    def due(self, limit: int) -> list[Held]:
        """Return changes that are to be tried now; each is returned once, and is to be held again if it fails."""
        keys: list[HeldKey] = []
        while self._ready and len(keys) < limit:
            key = next(iter(self._ready))
            del self._ready[key]
            keys.append(key)
        now = now_ms()
        while self._times and self._times[0][0] <= now and len(keys) < limit:
            at, key = heapq.heappop(self._times)
            entry = self._entries.get(key)
            if entry is not None and entry.next_at == at and key not in keys:
                keys.append(key)
        self._trying.update(keys)
        found = self._read([key for key in keys if key in self._entries])
        # In the order of the vessels' numbers: a parent before its children.
        return sorted(found, key=lambda held: (held.seq, held.vessel_id, held.entity, held.row_id))

    def tried(self) -> None:
        """Delete the changes that `due` has returned and that were not held again: they are applied, or refused."""
        self._delete([key for key in self._trying if key in self._entries])
        self._trying.clear()

    def take(self, keys: Iterable[HeldKey]) -> list[Held]:
        """Return changes that are to be tried together; then call `tried`, or `failed` if they stay held."""
        held = [key for key in keys if key in self._entries]
        self._trying.update(held)
        return self._read(held)

    def failed(self) -> None:
        """Note that the changes that `take` has returned stay held."""
        self._trying.clear()

    def next_new(self) -> HeldKey | None:
        """Return a change that is held and was not returned since it was held; None if there is none."""
        while self._new:
            key, _ = self._new.popitem()
            if key in self._entries:
                return key
        return None

    def known(self, key: HeldKey) -> None:
        """Note that `next_new` need not return a change."""
        self._new.pop(key, None)

    def waits_for(self, key: HeldKey) -> tuple[str, ...]:
        """Return the names of the rows that a change waits for; none if it is not held, or they are not known."""
        entry = self._entries.get(key)
        return () if entry is None else entry.waits_for

    def release(self, versions: Mapping[HeldKey, int]) -> None:
        """Delete held changes that are not newer than the given versions of their rows."""
        if not self._entries:
            return
        self._delete(
            [
                key
                for key, version in versions.items()
                if (entry := self._entries.get(key)) is not None and entry.version <= version
            ]
        )

    def let_go(self, vessel_id: str, entity: str, high_seq: int, mark: int) -> None:
        """Delete held changes of rows that a complete snapshot did not contain."""
        if self._counts.get(vessel_id):
            wanted = {"vessel_id": vessel_id, "entity": entity, "high_seq": high_seq, "mark": mark}
            row_ids = self._connection.execute(sql.held.LET_GO, wanted).scalars().all()
            self._delete([(vessel_id, entity, row_id) for row_id in row_ids])

    def forget(self, vessel_id: str) -> None:
        """Delete all held changes of a vessel."""
        if self._counts.get(vessel_id):
            for key in [key for key in self._entries if key[0] == vessel_id]:
                self._forget(key)
            self._connection.execute(sql.held.FORGET_HELD, {"vessel_id": vessel_id})

    def _read(self, keys: list[HeldKey]) -> list[Held]:
        row_ids: dict[tuple[str, str], list[str]] = defaultdict(list)
        for vessel_id, entity, row_id in keys:
            row_ids[vessel_id, entity].append(row_id)
        found = {}
        for (vessel_id, entity), of in row_ids.items():
            wanted = {"vessel_id": vessel_id, "entity": entity, "row_ids": of}
            for row in self._connection.execute(sql.held.HELD, wanted):
                found[vessel_id, entity, row.row_id] = Held(
                    row.vessel_id,
                    row.entity,
                    row.row_id,
                    row.version,
                    row.seq,
                    row.operation,
                    decode_row(bytes(row.data)),
                    row.mark,
                )
        return [found[key] for key in keys]

    def _delete(self, keys: list[HeldKey]) -> None:
        for key in keys:
            self._forget(key)
        if keys:
            self._connection.execute(
                sql.held.RELEASE,
                [
                    {"vessel_id": vessel_id, "entity": entity, "row_id": row_id}
                    for vessel_id, entity, row_id in sorted(keys)
                ],
            )

    def _remember(self, key: HeldKey, entry: _Entry) -> None:
        self._entries[key] = entry
        self._counts[key[0]] += 1
        self._bytes[key[0]] += entry.size
        for name in entry.waits_for:
            self._waiting[name][key] = None
        heapq.heappush(self._times, (entry.next_at, key))
        if len(self._times) > 2 * len(self._entries) + 1000:
            self._times = [(one.next_at, of) for of, one in self._entries.items()]
            heapq.heapify(self._times)

    def _forget(self, key: HeldKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._counts[key[0]] -= 1
        self._bytes[key[0]] -= entry.size
        self._ready.pop(key, None)
        self._full.discard(key[0])
        for name in entry.waits_for:
            waiting = self._waiting[name]
            del waiting[key]
            if not waiting:
                del self._waiting[name]


def row_name(table: str, key: object) -> str:
    """Return the name of a row that held changes wait for, from its table and its primary key.

    Keys of different types that mean the same row have the same name.
    """
    return f"{table}/{key}"
