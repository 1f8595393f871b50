"""A set of numbers of which most are consecutive."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator, Sequence

#: Maximum number of ranges: the highest ones are dropped, and their numbers fetched again.
MAX_RANGES = 500


class Ranges:
    """A set of numbers, stored as ranges."""

    def __init__(self, ranges: Iterable[Sequence[int]] = ()) -> None:
        self._ranges = [(low, high) for low, high in ranges]

    def add(self, number: int) -> None:
        """Add a number."""
        ranges = self._ranges
        if ranges and ranges[-1][1] == number - 1:  # the usual case
            ranges[-1] = (ranges[-1][0], number)
            return
        at = bisect.bisect_right(ranges, (number, math.inf)) - 1
        if at >= 0 and ranges[at][1] >= number:
            return
        low = high = number
        if at + 1 < len(ranges) and ranges[at + 1][0] == number + 1:
            high = ranges.pop(at + 1)[1]
        if at >= 0 and ranges[at][1] == number - 1:
            low = ranges.pop(at)[0]
        bisect.insort(ranges, (low, high))
        del ranges[MAX_RANGES:]

    def follow(self, number: int) -> int:
        """Return the end of the unbroken run from `number` on, and remove all numbers up to it."""
        ranges = self._ranges
        while ranges and ranges[0][0] <= number + 1:
            number = max(number, ranges.pop(0)[1])
        return number

    def clear(self) -> None:
        """Remove all numbers."""
        self._ranges.clear()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)
