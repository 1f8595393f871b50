"""Held changes that are tried again, and those that wait for each other, which are written together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from .held import Held, HeldKey
from .messages import Change
from .records import RowRecords
from .row_changes import RowChanges, key_of
from .rows import Copy
from .store import Store
from .writer import RowWriter

#: Changes that are written together at most.
MOST = 100


class HeldRows:
    """Applies held changes in one transaction."""

    def __init__(
        self,
        store: Store,
        copies: Mapping[str, Copy],
        records: RowRecords,
        rows: RowChanges,
        writer: RowWriter,
    ) -> None:
        self._held = store.held
        self._records = records
        self._rows = rows
        self._writer = writer
        #: Entities by the names of their tables.
        self._entities = {copy.table.name: entity for entity, copy in copies.items()}

    def retry(self, most: int) -> None:
        """Try held changes that are due, and those that become due by it; those that fail again stay held.

        :param most: how many changes are tried, by and large.
        """
        left = most
        while left > 0 and self._held.has_due():
            due = self._held.due(left)
            self._take(due)
            self._writer.flush()
            self._held.tried()
            left -= len(due)
            left -= self.close_circles(left)

    def close_circles(self, most: int) -> int:
        """Write together the changes that have come to wait for each other.

        Whichever change was held last closes the circle, so that only new ones are looked at; those that there is no
        room for are looked at in the next transaction.

        :returns: how many changes were tried.
        """
        tried = 0
        while tried < most and (key := self._held.next_new()) is not None:
            if circle := self._circle(key):
                self._write(circle)
                tried += len(circle)
        return tried

    def _circle(self, key: HeldKey) -> list[HeldKey]:
        """Return a change in a circle and all that can't be written without each other.

        :returns: nothing if it is in no circle, if there are more than `MOST`, or if one of them waits for a row that no
            held change will write: then nothing is tried.
        """
        circle, is_closed = {key: None}, False
        left = [key]
        while left:
            for row in self._held.waits_for(left.pop()):
                after = self._change_of(key[0], row)
                if after is None:
                    return []
                is_closed = is_closed or after == key
                if after not in circle:
                    circle[after] = None
                    left.append(after)
            if len(circle) > MOST:
                return []
        return list(circle) if is_closed else []

    def _write(self, circle: list[HeldKey]) -> None:
        """Write changes together; what turns out to be in the way is noted, and those in whose way it is are new."""
        members = {(one.vessel_id, one.entity, one.row_id): one for one in self._held.take(circle)}
        self._take(members.values())
        obstacles = self._writer.flush_together()
        if not obstacles:
            self._held.tried()
            return
        self._held.failed()
        for obstacle in obstacles:
            key = key_of(obstacle.change)
            before = self._held.waits_for(key)
            rows = dict.fromkeys(chain(before, obstacle.rows))
            self._held.hold(obstacle.change, members[key].mark, obstacle.reason, rows)
            if len(rows) == len(before):  # it would be tried again and again
                self._held.known(key)

    def _change_of(self, vessel_id: str, row: str) -> HeldKey | None:
        """Return the held change of a row; None if nothing is held of it.

        :param row: its `row_name`.
        """
        table, _, row_id = row.partition("/")
        key = (vessel_id, self._entities.get(table, ""), row_id)
        return key if key in self._held else None

    def _take(self, held: Iterable[Held]) -> None:
        changes = [(one, _change_of(one)) for one in held]
        self._records.fetch(change for _, change in changes)
        for one, change in changes:
            key = key_of(change)
            known = self._records.get(key)
            if known is not None and known.version >= change.version:
                self._held.release({key: known.version})
                continue
            self._rows.take(change, None, mark=one.mark)


def _change_of(held: Held) -> Change:
    return Change(
        held.vessel_id, "", "", held.entity, held.operation, held.row_id, held.version, held.seq,
        0, 0, held.data,
    )  # fmt: skip
