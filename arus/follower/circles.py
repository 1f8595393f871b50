"""Held changes that are tried again, and those that wait for each other, which are written together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .held import Held, HeldKey
from .messages import Change
from .records import RowRecords
from .row_changes import RowChanges, key_of
from .rows import Copy
from .store import Store
from .together import Obstacle
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

    def retry(self, held: Iterable[Held]) -> None:
        """Try held changes once more; those that fail again stay held."""
        self._take(held)
        self._writer.flush()
        self._held.tried()

    def close_circles(self) -> None:
        """Write together the changes that have come to wait for each other in this transaction.

        Whichever change was held last closes the circle, so that only new ones are looked at.
        """
        failed: set[HeldKey] = set()
        while (key := self._held.next_new()) is not None:
            if key not in failed and (circle := self._circle(key)):
                failed |= self._write(circle)

    def _circle(self, key: HeldKey) -> list[HeldKey]:
        """Return the changes that wait for each other, beginning with a given one; none if it is in no circle."""
        circle = [key]
        while len(circle) <= MOST:
            after = self._change_of(key[0], self._held.waits_for(circle[-1]))
            if after == key:
                return circle
            if after is None or after in circle:
                break
            circle.append(after)
        return []

    def _write(self, circle: list[HeldKey]) -> set[HeldKey]:
        """Write changes together, with those held changes that turn out to be in the way.

        :returns: the changes that something else is in the way of, if nothing was written.
        """
        obstacles: dict[HeldKey, tuple[Held, Obstacle]] = {}
        while True:
            members = {
                (one.vessel_id, one.entity, one.row_id): one for one in self._held.take(circle)
            }
            self._take(members.values())
            obstacle = self._writer.flush_together()
            if obstacle is None:
                self._held.tried()
                return set()
            self._held.failed()
            blocked = key_of(obstacle.change)
            obstacles[blocked] = (members[blocked], obstacle)
            more = self._change_of(blocked[0], obstacle.row)
            if more is None or more in members or len(circle) >= MOST:
                break
            circle.append(more)
        for one, of in obstacles.values():
            self._held.hold(of.change, one.mark, of.reason, of.row)
        return set(obstacles)

    def _change_of(self, vessel_id: str, row: str) -> HeldKey | None:
        """Return the held change of a row; None if there is none.

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
