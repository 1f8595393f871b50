"""Tallies: how many changes and rows there are, so that a catch-up announces its number without counting them.

The first message of a catch-up says how many items follow. To count a million of them first would delay it by a quarter
of a second, so the owner keeps the numbers in memory:

- Of the log, how many items there are in each block of `BLOCK` numbers. Only blocks that the broker has acknowledged
  completely are counted: nothing but retention changes what a catch-up sends of these (`LogTally`).
- Of each table, how many rows there are, by what the log says was created and deleted since they were counted. Rows that
  were written without capture are missing in it, so whoever uses it counts the table again, beside the catch-up
  (`RowTally`).
"""

from __future__ import annotations

import threading
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec import Struct, field
from sqlalchemy import Connection

from arus.protocol.entries import Entry, Operation

from . import sql

#: Numbers in a block.
BLOCK = 1_000
#: Blocks that are counted in one statement.
_STEP = 50


class _Counted(Struct):
    """The counted blocks of a topic, which follow one another."""

    #: The first of them, and the one after the last.
    begin: int = 0
    end: int = 0
    #: By entity: the items and the deletes among them, one number for each block.
    items: dict[str, array[int]] = field(default_factory=dict)
    deletes: dict[str, array[int]] = field(default_factory=dict)

    def sum(self, entity: str, first: int, end: int, *, deletes_only: bool) -> int:
        """Return how many items there are in some blocks."""
        counts = (self.deletes if deletes_only else self.items).get(entity)
        return 0 if counts is None else sum(counts[first - self.begin : end - self.begin])


class LogTally:
    """How many items a catch-up finds in the log. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._topics: dict[str, _Counted] = {}
        #: Raised when something that was counted has changed.
        self._revision = 0

    def behind(self, acked: Mapping[str, int]) -> int:
        """Return how many blocks of a topic could be counted and are not, at most.

        :param acked: by topic: the number up to which all is acknowledged.
        """
        with self._lock:
            ends = {topic: counted.end for topic, counted in self._topics.items()}
        return max((seq // BLOCK - ends.get(topic, 0) for topic, seq in acked.items()), default=0)

    def advance(self, connection: Connection) -> bool:
        """Count the next blocks of each topic, some at a time; return whether there are more.

        :param connection: may be another one than the owner's; without an open transaction, so that what is
            acknowledged was committed before it is counted.
        """
        more = False
        for topic, acked_seq in connection.execute(sql.tallies.ACKED).all():
            with self._lock:
                revision, begin = self._revision, self._end_of(topic)
            full = acked_seq // BLOCK
            if begin < full:
                more = self._count(connection, topic, begin, full, revision) or more
        return more

    def _end_of(self, topic: str) -> int:
        counted = self._topics.get(topic)
        return 0 if counted is None else counted.end

    def _count(
        self, connection: Connection, topic: str, begin: int, full: int, revision: int
    ) -> bool:
        # What retention has deleted, and the numbers of other topics, are passed over.
        wanted = {"topic": topic, "after": begin * BLOCK}
        first = connection.execute(sql.tallies.NEXT, wanted).scalar()
        place = full if first is None else min(full, (first - 1) // BLOCK)
        end = min(full, place + _STEP)
        wanted = {"topic": topic, "after": place * BLOCK, "upto": end * BLOCK, "numbers": BLOCK}
        rows = connection.execute(sql.tallies.BLOCKS, wanted).all() if place < end else []
        with self._lock:
            if revision == self._revision:
                counted = self._topics.setdefault(topic, _Counted())
                if counted.begin == counted.end:
                    counted.begin = counted.end = place
                for row in rows:
                    _put(counted, counted.items, row.entity, row.block, row.items)
                    _put(counted, counted.deletes, row.entity, row.block, row.deletes)
                counted.end = end
        return end < full

    def count(
        self, topic: str, entity: str, after: int, high: int, *, deletes_only: bool = False
    ) -> tuple[int, int, int]:
        """Return the part of a range that is counted, after a number up to another one, and an entity's items in it.

        :param after: the range begins after this number, and ends with `high`.
        :returns: two equal numbers and no items if nothing of it is counted.
        """
        with self._lock:
            counted = self._topics.get(topic, _Counted())
            first = max(-(-after // BLOCK), counted.begin)
            end = min(high // BLOCK, counted.end)
            if first >= end:
                return after, after, 0
            found = counted.sum(entity, first, end, deletes_only=deletes_only)
        return first * BLOCK, end * BLOCK, found

    def pruned(self, seq: int) -> None:
        """Note that changes up to a number were deleted; after the commit."""
        first = -(-seq // BLOCK)
        with self._lock:
            self._revision += 1
            for counted in self._topics.values():
                gone = min(max(0, first - counted.begin), counted.end - counted.begin)
                counted.begin += gone
                for counts in (*counted.items.values(), *counted.deletes.values()):
                    del counts[:gone]

    def forget(self) -> None:
        """Count everything again: a change that was acknowledged is one for catch-ups now; after the commit."""
        with self._lock:
            self._revision += 1
            self._topics.clear()


def _put(
    counted: _Counted, counts: dict[str, array[int]], entity: str, block: int, count: int
) -> None:
    """Note the number of a block; those before it that have none are empty."""
    known = counts.setdefault(entity, array("H"))
    known.extend([0] * (block - counted.begin - len(known)))
    known.append(count)


class Moment(NamedTuple):
    """When rows were counted."""

    revision: int
    #: The rows created since the owner began, less those deleted.
    net: int


class RowTally:
    """How many rows each table has, by what was numbered since they were counted. Used by the owner's thread."""

    def __init__(self) -> None:
        self._net: Counter[str] = Counter()
        #: By entity: the rows there would be if nothing had been created or deleted since the owner began.
        self._base: dict[str, int] = {}
        self._revision = 0

    def note(self, numbered: Iterable[Entry]) -> None:
        """Note changes that get their numbers."""
        for entry in numbered:
            if entry.operation is Operation.CREATE:
                self._net[entry.entity] += 1
            elif entry.operation is Operation.DELETE:
                self._net[entry.entity] -= 1

    def forget(self) -> None:
        """Forget everything: a transaction that has numbered changes may have failed."""
        self._base.clear()
        self._revision += 1

    def moment(self, entity: str) -> Moment:
        """Return what `learn` needs of rows that are counted as of the present head."""
        return Moment(self._revision, self._net[entity])

    def learn(self, entity: str, rows: int, moment: Moment) -> None:
        """Note how many rows there were at a moment."""
        if moment.revision == self._revision:
            self._base[entity] = rows - moment.net

    def rows(self, entity: str) -> int | None:
        """Return how many rows there are at the head; None if they were not counted."""
        base = self._base.get(entity)
        return None if base is None else base + self._net[entity]
