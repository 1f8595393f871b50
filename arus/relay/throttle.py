"""The throttle: how long the owner rests between two steps while others on board write.

Each step uses the database's write lock, a disk flush and the interpreter, which threads that serve requests need as
well. If a step for each commit would take a small share of the time, a change is sent at once. If it would take a
large share, the owner rests after each step, and the changes committed meanwhile share the next step.
"""

from __future__ import annotations

import math

#: Seconds over which commits are averaged.
_MEMORY = 0.5
#: Commits within that time that are a burst, which is soon over, and no load.
_BURST = 30
#: The share of the time that the write lock may be held by a step for each commit before the owner begins to rest, and
#: the share at which the rest is longest: in a burst, and under load. A step costs several times what it holds the lock.
_IN_A_BURST = 0.2, 0.4
_UNDER_LOAD = 0.04, 0.08
#: Seconds of rest after a step, at most.
LONGEST = 0.2
#: Maximum number of messages in a step while the owner rests after steps: a longer step would delay each request
#: that is served meanwhile, however long the rest after it.
FEW = 200
#: Minimum seconds between two checks of the log: commits in quick succession share a step.
SHORTEST = 0.001


class Throttle:
    """Decides until when to rest. All times are monotonic seconds."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._counted_at = -math.inf
        #: Seconds that a step takes, averaged.
        self._step = 0.0
        #: Nothing is to be written before this time.
        self.rest_until = -math.inf
        #: The log is not to be checked before this time.
        self.look_from = -math.inf

    def committed(self, transactions: int, now: float) -> None:
        """Note how many transactions others have committed since the last call."""
        self._rate = self._rate_at(now) + transactions / _MEMORY
        self._counted_at = now

    def looked(self, now: float) -> None:
        """Note a check of the log."""
        self.look_from = now + SHORTEST

    def wrote(self, began: float, ended: float) -> None:
        """Note a step, and decide on the rest after it.

        :param began: when it got the write lock; while it waits for the lock, others can work.
        """
        # A single slow flush is no reason to rest: a step counts as twice the average at most.
        fenced = min(ended - began, self._step * 2 + 0.001)
        self._step += (fenced - self._step) / 4
        self.rest_until = ended + self._strain(ended) * LONGEST

    def most(self, now: float) -> int | None:
        """Return how many messages a step may send; None for as many as the window has room for."""
        return FEW if self._strain(now) else None

    def _rate_at(self, now: float) -> float:
        return self._rate * math.exp((self._counted_at - now) / _MEMORY)

    def _strain(self, now: float) -> float:
        """Return 0 if a step for each commit is tolerable, and up to 1 if it would take too much time."""
        rate = self._rate_at(now)
        tolerated, too_much = _IN_A_BURST if rate * _MEMORY < _BURST else _UNDER_LOAD
        return min(1.0, max(0.0, (rate * self._step - tolerated) / (too_much - tolerated)))
