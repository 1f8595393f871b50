"""Refused rows: rows of a vessel that this follower can't read or can't write, each with its reason.

A refused row counts as received: the position passes it, and it is not requested again until its content changes. The
audit reads them here: a vessel with refused rows is not equal, and a request would bring the same rows again.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection

from arus.escapes import escaped
from arus.logs import get_logger
from arus.protocol.digests import bucket_of
from arus.protocol.rows import is_row_id
from arus.protocol.times import now_ms

from . import sql
from .messages import Change
from .sql.build import Some, execute_for

logger = get_logger(__name__)

#: Maximum number of refused rows that are kept for a vessel, and for all vessels.
MAX_REFUSED = 1_000
MAX_REFUSED_IN_ALL = 20_000
#: Characters that are kept of a row's id and of a reason.
_SHOWN_ID = 64
_SHOWN_REASON = 500


class Refusal(Struct, frozen=True):
    """A row that was refused."""

    vessel_id: str
    entity: str
    #: The row's id as it can be shown; empty for rows that did not arrive at all.
    row_id: str
    version: int
    seq: int
    #: The hash of its content; empty if that can't be read, or for a deletion.
    hash: str
    bucket: int
    reason: str
    #: In milliseconds since the epoch.
    refused_at: int


class Refusals:
    """The refused rows of all vessels. Used by the follower's thread, in its transactions.

    :param connection: of `arus.database.open_engine`.
    :param vessels: ids of the vessels whose rows are read; None for all.
    """

    def __init__(self, connection: Connection, vessels: Some = None) -> None:
        self._connection = connection
        self._kept: dict[tuple[str, str], dict[str, Refusal]] = defaultdict(dict)
        self._counts: dict[str, int] = defaultdict(int)
        #: Those refused in this process, with the mark of the last snapshot that contained them. After a restart each
        #: row is tried once more, since the tables may have changed.
        self._confirmed: dict[tuple[str, str, str], int] = {}
        self._full: set[str] = set()
        for row in execute_for(connection, sql.refusals.ALL, sql.refusals.ALL_OF, vessels):
            self._kept[row.vessel_id, row.entity][row.row_key] = _refusal(row)
            self._counts[row.vessel_id] += 1

    def knows(self, change: Change, content: str) -> bool:
        """Whether this state of a row was refused before."""
        key = _row_key(change.row_id)
        kept = self._kept[change.vessel_id, change.entity].get(key)
        return (
            kept is not None
            and (kept.version, kept.hash) == (change.version, content)
            and (change.vessel_id, change.entity, key) in self._confirmed
        )

    def covers(self, change: Change) -> bool:
        """Whether this version of a row, or a later one, was refused."""
        kept = self._kept[change.vessel_id, change.entity].get(_row_key(change.row_id))
        return kept is not None and kept.version >= change.version

    def seen(self, change: Change, mark: int) -> None:
        """Note that a refused row is in a snapshot."""
        key = (change.vessel_id, change.entity, _row_key(change.row_id))
        if mark and key in self._confirmed:
            self._confirmed[key] = mark

    def add(self, change: Change, content: str, reason: str, mark: int = 0) -> None:
        """Keep a refused row.

        :param content: the hash of its content; empty if that can't be read.
        :param mark: of the snapshot that contains it.
        """
        self._add(
            Refusal(
                change.vessel_id,
                change.entity,
                escaped(change.row_id)[:_SHOWN_ID],
                change.version,
                change.seq,
                content,
                bucket_of(change.row_id),
                escaped(reason)[:_SHOWN_REASON],
                now_ms(),
            ),
            _row_key(change.row_id),
            mark,
        )

    def removed(self, change: Change) -> None:
        """Forget a refused row that is deleted."""
        self._remove(change.vessel_id, change.entity, _row_key(change.row_id))

    def add_missing(self, vessel_id: str, entity: str, seq: int, reason: str) -> None:
        """Note that rows did not arrive although they were requested repeatedly."""
        self._add(Refusal(vessel_id, entity, "", 0, seq, "", 0, reason, now_ms()), "")

    def all_arrived(self, vessel_id: str, entity: str) -> None:
        """Note that all rows of an entity have arrived."""
        self._remove(vessel_id, entity, "")

    def is_disproved(self, vessel_id: str, entity: str, differing: Collection[int]) -> bool:
        """Whether a digest of the vessel shows that it does not have a refused row (any more)."""
        return any(
            self._is_disproved(key, kept, differing)
            for key, kept in self._kept.get((vessel_id, entity), {}).items()
        )

    def disproved(self, vessel_id: str, entity: str, differing: Collection[int]) -> None:
        """Forget rows that the vessel does not have, as its digest shows.

        A bucket that agrees with the vessel's has all of its rows, in the state that was applied here.

        :param differing: the buckets that differ.
        """
        for key, kept in list(self._kept.get((vessel_id, entity), {}).items()):
            if self._is_disproved(key, kept, differing):
                self._remove(vessel_id, entity, key)

    @staticmethod
    def _is_disproved(key: str, kept: Refusal, differing: Collection[int]) -> bool:
        return kept.bucket not in differing if key else not differing

    def accepted(self, versions: Mapping[tuple[str, str, str], int]) -> None:
        """Forget refused rows of which a later version is applied now.

        :param versions: by vessel, entity and row id.
        """
        for (vessel_id, entity, row_id), version in versions.items():
            kept = self._kept.get((vessel_id, entity), {}).get(_row_key(row_id))
            if kept is not None and kept.version <= version:
                self._remove(vessel_id, entity, _row_key(row_id))

    def swept(
        self,
        vessel_id: str,
        entity: str,
        high_seq: int,
        mark: int,
        buckets: Collection[int] | None = None,
    ) -> None:
        """Forget rows that a complete snapshot did not contain.

        :param high_seq: of the snapshot: what was refused above it is newer.
        :param mark: of the snapshot.
        :param buckets: of the snapshot; None for all.
        """
        for key, kept in list(self._kept.get((vessel_id, entity), {}).items()):
            concerned = key and kept.seq <= high_seq and (buckets is None or kept.bucket in buckets)
            if concerned and self._confirmed.get((vessel_id, entity, key)) != mark:
                self._remove(vessel_id, entity, key)

    def forget(self, vessel_id: str) -> None:
        """Forget all of a vessel: its epoch has ended, or it is not followed any more."""
        for of in [of for of in self._kept if of[0] == vessel_id]:
            del self._kept[of]
        self._confirmed = {
            key: mark for key, mark in self._confirmed.items() if key[0] != vessel_id
        }
        self._counts.pop(vessel_id, None)
        self._full.discard(vessel_id)
        self._connection.execute(sql.refusals.FORGET_VESSEL, {"vessel_id": vessel_id})

    def of(self, vessel_id: str, entity: str) -> list[Refusal]:
        """Return the refused rows of an entity of a vessel, by id."""
        kept = self._kept.get((vessel_id, entity), {})
        return sorted(kept.values(), key=lambda refusal: refusal.row_id)

    def _add(self, refusal: Refusal, key: str, mark: int = 0) -> None:
        kept = self._kept[refusal.vessel_id, refusal.entity]
        if key not in kept:
            count = self._counts[refusal.vessel_id]
            if count >= MAX_REFUSED or sum(self._counts.values()) >= MAX_REFUSED_IN_ALL:
                self._say_full(refusal.vessel_id, count)
                return
            self._counts[refusal.vessel_id] = count + 1
        kept[key] = refusal
        self._confirmed[refusal.vessel_id, refusal.entity, key] = mark
        self._connection.execute(sql.refusals.SAVE, _record(refusal, key))

    def _say_full(self, vessel_id: str, count: int) -> None:
        if vessel_id not in self._full:
            self._full.add(vessel_id)
            logger.error(
                "[MQTT Reliable Sync] %d rows of %s are refused already: further ones are refused without a record",
                count,
                vessel_id,
            )

    def _remove(self, vessel_id: str, entity: str, key: str) -> None:
        if self._kept.get((vessel_id, entity), {}).pop(key, None) is not None:
            self._counts[vessel_id] -= 1
            self._confirmed.pop((vessel_id, entity, key), None)
            self._full.discard(vessel_id)
            wanted = {"vessel_id": vessel_id, "entity": entity, "row_key": key}
            self._connection.execute(sql.refusals.REMOVE, wanted)


def read_refusals(connection: Connection) -> list[Refusal]:
    """Return all refused rows of all vessels, by vessel, entity and id."""
    return [_refusal(row) for row in connection.execute(sql.refusals.ALL)]


def _row_key(row_id: str) -> str:
    """Return the key of a refused row: its id if that is valid, else a hash of it."""
    if not row_id or is_row_id(row_id):
        return row_id
    return hashlib.sha256(row_id.encode(errors="surrogatepass")).hexdigest()


def _refusal(row: Any) -> Refusal:
    return Refusal(
        row.vessel_id,
        row.entity,
        row.row_id,
        row.version,
        row.seq,
        row.hash,
        row.bucket,
        row.reason,
        row.refused_at,
    )


def _record(refusal: Refusal, key: str) -> dict[str, Any]:
    return {
        "vessel_id": refusal.vessel_id,
        "entity": refusal.entity,
        "row_key": key,
        "row_id": refusal.row_id,
        "version": refusal.version,
        "seq": refusal.seq,
        "hash": refusal.hash,
        "bucket": refusal.bucket,
        "reason": refusal.reason,
        "refused_at": refusal.refused_at,
    }
