"""The pace: how long the owner rests between two turns while others on board write.

Each turn takes the database's write lock, a disk flush and the interpreter from those who serve requests. As
long as a turn for each commit would take little of the time, a change goes out at once. Where it would
take much, the owner rests after each turn: what is committed meanwhile shares the next one.
"""

from __future__ import annotations

import math

#: Seconds over which commits and turns are averaged: a burst of some twenty commits is none to rest in.
_MEMORY = 0.5
#: The share of the time that a turn for each commit may take before the owner begins to rest, and that at
#: which it rests longest.
_TOLERATED, _TOO_MUCH = 0.2, 0.4
#: Seconds of rest after a turn, at most.
LONGEST = 0.2
#: Messages that a turn sends at most where the owner rests: a longer turn would hold up each request that is
#: served meanwhile, however long the rest after it.
FEW = 200
#: Seconds between two looks at the log: those that commit one right after the other share turns.
SHORTEST = 0.001


class Pace:
    """Says until when to rest. All times are monotonic seconds."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._counted_at = -math.inf
        self._turn = 0.0
        #: Nothing is to be written before.
        self.rest_until = -math.inf
        #: Nothing new is to be looked for before.
        self.look_from = -math.inf

    def committed(self, transactions: int, now: float) -> None:
        """Note that others have committed so many transactions since the last call."""
        self._rate = self._rate_at(now) + transactions / _MEMORY
        self._counted_at = now

    def looked(self, now: float) -> None:
        """Note a look at the log."""
        self.look_from = now + SHORTEST

    def wrote(self, began: float, ended: float) -> None:
        """Note a turn, and decide on the rest after it.

        :param began: when it had the write lock: while it waits, others work.
        """
        # A single flush that takes long is no reason to rest: twice as much as usual is believed at a time.
        turn = min(ended - began, self._turn * 2 + 0.001)
        self._turn += (turn - self._turn) / 4
        self.rest_until = ended + self._strain(ended) * LONGEST

    def most(self, now: float) -> int | None:
        """Return how many messages a turn may send; None for as many as the window takes."""
        return FEW if self._strain(now) else None

    def _rate_at(self, now: float) -> float:
        return self._rate * math.exp((self._counted_at - now) / _MEMORY)

    def _strain(self, now: float) -> float:
        """Return 0 where a turn for each commit would be tolerated, up to 1 where it would be far too much."""
        share = self._rate_at(now) * self._turn
        return min(1.0, max(0.0, (share - _TOLERATED) / (_TOO_MUCH - _TOLERATED)))
