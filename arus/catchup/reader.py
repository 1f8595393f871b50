"""Reads the items of a run, from the log or from the table, a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from arus.errors import CatchupError
from arus.outbox.reader import LogRange
from arus.outbox.snapshot import NO_LIMIT, Item, SnapshotReader
from arus.protocol.entries import Entry

from .runs import Run, in_buckets, number_of

if TYPE_CHECKING:
    from arus.outbox.log import ChangeLog


class RunReader:
    """Reads the items of one run, outside the owner's transactions, so that writers do not wait for it.

    :param snapshot: reads the table; None if the run does not need it.
    """

    def __init__(self, log: ChangeLog, snapshot: SnapshotReader | None) -> None:
        self._log = log
        self._snapshot = snapshot

    def count(self, run: Run, rows: Callable[[SnapshotReader, int], int]) -> int:
        """Return how many items there are, up to the run's limit.

        :param rows: returns how many rows of the table a run will send, up to a limit.
        """
        if run.mode == "must_refetch":
            return 0
        limit = NO_LIMIT if run.item_limit is None else run.item_limit
        if run.mode == "log":
            return self._log.count_items(self._range(run), limit)
        found = 0
        if self._snapshot is not None and not run.position.startswith("s"):
            found = rows(self._snapshot, limit)
        if found < limit and run.wanted_buckets:
            row_ids = self._log.deleted_ids(self._range(run))
            found += sum(in_buckets(run.wanted_buckets, row_id) for row_id in row_ids)
        elif found < limit:
            found += self._log.count_items(self._range(run), limit - found, deletes_only=True)
        return min(found, limit)

    def read(self, run: Run, limit: int) -> tuple[list[Entry], str | None]:
        """Return the next items, and the position after them; None if there are no more."""
        if run.mode == "must_refetch" or limit <= 0:
            return [], None
        if run.mode == "repair":
            after = number_of(run.position, 0)
            entries = self._log.repair_items(run.claimed, after=after, limit=limit)
            return entries, f"i{entries[-1].id}" if len(entries) == limit else None
        if run.mode == "log":
            return self._read_log(run, limit)
        if run.position.startswith("s"):
            return self._read_log(run, limit, deletes_only=True)
        if self._snapshot is None:
            raise CatchupError(f"{run.entity} is not synchronised (any more)")
        items, position = self._snapshot.read(run.position[1:] or None, limit)
        entries = [_entry(run, item) for item in items]
        # All rows have been read: the deletes in the log come next.
        return entries, "s0" if position is None else f"k{position}"

    def _read_log(
        self, run: Run, limit: int, *, deletes_only: bool = False
    ) -> tuple[list[Entry], str | None]:
        entries = self._log.items(self._range(run), limit, deletes_only=deletes_only)
        position = f"s{entries[-1].seq}" if len(entries) == limit else None
        buckets = run.wanted_buckets
        return [entry for entry in entries if in_buckets(buckets, entry.row_id)], position

    @staticmethod
    def _range(run: Run) -> LogRange:
        return LogRange(run.topic, run.entity, run.after, run.high_seq)


def _entry(run: Run, item: Item) -> Entry:
    return Entry(
        id=0,
        seq=run.high_seq,
        previous_seq=0,
        message_id=f"{run.catchup_id[:8]}_{item.row_id}",
        topic=run.topic,
        qos=1,
        entity=run.entity,
        operation=item.operation,
        row_id=item.row_id,
        version=item.version,
        committed_at=item.committed_at,
        data=item.data,
    )
