"""How many rounds a benchmark runs: as many as it wants, as far as its time allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator


def rounds_within(
    seconds: float,
    wanted: int,
    least: int = 2,
    *,
    is_enough: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[int]:
    """Yield the numbers of rounds from 0, each when the one before has ended.

    After `least` rounds no other one begins that would end after `seconds`, if it takes as long as the longest so far, nor
    any once `is_enough`.

    :param wanted: rounds at most; where fewer than `least`, that many.
    """
    began = before = clock()
    longest = 0.0
    for number in range(wanted):
        now = clock()
        longest, before = max(longest, now - before), now
        if number >= least and (now - began + longest > seconds or is_enough()):
            return
        yield number


def limit(seconds: float, rounds: int, usual: int) -> float:
    """Return `seconds`; without end where more rounds are asked for than usual (`--rounds`)."""
    return seconds if rounds <= usual else math.inf
