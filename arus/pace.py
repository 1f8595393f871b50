"""The pace: how often the owner may write while others on board do.

Each turn takes the database's write lock, a disk flush and the interpreter from those who serve requests. The
first change of an idle system goes at once, and so does a short burst; in a longer one the changes share
their turns, so that all of these together take only a small share of the time.
"""

from __future__ import annotations

import math

#: The share of the time that turns may take while others write.
SHARE = 0.02
#: Seconds of turns that a burst begins with.
ALLOWANCE = 0.06
#: Seconds between two looks at the log in a burst within its allowance: those behind the first share turns.
SHORTEST = 0.003
#: Seconds of rest after a turn, at most.
LONGEST = 0.2
#: Messages that a turn may send in a burst beyond its allowance: a longer turn would hold up each request
#: that is served meanwhile, however long the rest after it.
FEW = 100
#: Seconds after the last ring of the bell for which others are thought to be writing.
_QUIET = 0.1


class Pace:
    """Says until when to rest. All times are monotonic seconds."""

    def __init__(self) -> None:
        self._allowance = ALLOWANCE
        self._reckoned_at = -math.inf
        self._rang_at = -math.inf
        #: Nothing is to be written before.
        self.rest_until = -math.inf
        #: Nothing new is to be looked for before.
        self.look_from = -math.inf

    def rang(self, now: float) -> None:
        """Note that somebody has written; after a silence it is a burst of its own."""
        if now - max(self._rang_at, self.rest_until) > _QUIET:
            self._allowance = ALLOWANCE
        self._rang_at = now

    def most(self, now: float) -> int | None:
        """Return how many messages a turn may send; None for as many as the window takes."""
        spent = self._allowance <= 0 and now - self._rang_at <= _QUIET + LONGEST
        return FEW if spent else None

    def looked(self, now: float) -> None:
        """Note a look at the log."""
        self.look_from = now + SHORTEST

    def wrote(self, began: float, ended: float) -> None:
        """Note a turn, and decide on the rest after it.

        :param began: when it had the write lock: while it waits, others work.
        """
        if began - self._rang_at > _QUIET:
            return  # there is nobody to be considerate of
        gained = (ended - self._reckoned_at) * SHARE
        self._reckoned_at = ended
        self._allowance = min(ALLOWANCE, self._allowance + gained) - (ended - began)
        self._allowance = max(self._allowance, -LONGEST * SHARE)
        self.rest_until = ended + max(0.0, -self._allowance / SHARE)
