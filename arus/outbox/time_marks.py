"""The time marks, by which a catch-up since a time finds its first number without reading the changes since then.

The log is ordered by numbers. Times follow them only as long as nobody sets the clock back, so an index of times alone
doesn't tell the lowest number: it would have to be looked for among all changes since the time. So the owner notes
about once in `EVERY` numbers that all changes up to this number were committed at or before a time. The changes since a
later time then have higher numbers, whatever the clock did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from arus.database import translated
from arus.protocol.entries import Entry

from . import sql

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from .driver import DriverStatements
    from .log import FencedTransaction

#: Numbers between two marks, at least. A batch that is numbered at once may add as many.
EVERY = 1_000
#: Numbers between two marks, at most. A log that is older than its marks has more before the first.
_FARTHEST = 2 * EVERY
#: Digits of the time in a message id.
_DIGITS = 13
#: Later than all times.
_NEVER = 2**62


class TimeMarks:
    """Writes the marks of one owner, and reads them.

    :param connection: the owner's.
    :param driver: runs statements on it.
    """

    def __init__(self, connection: Connection, driver: DriverStatements) -> None:
        self._connection = connection
        self._driver = driver
        #: The number of the last mark; None until it was read.
        self._last: int | None = None
        #: When the latest of all numbered changes was committed, or later.
        self._highest_at = 0

    def note(self, numbered: Sequence[Entry], fenced: FencedTransaction) -> None:
        """Note changes that get their numbers in the owner's transaction.

        :param numbered: at least one, ascending.
        """
        self._highest_at = max(self._highest_at, *(entry.committed_at for entry in numbered))
        seq = numbered[-1].seq
        if seq - (self._last or 0) >= EVERY:
            fenced.execute(sql.time_marks.ADD, {"seq": seq, "highest_at": self._highest_at})
            self._last = seq

    def forget(self) -> None:
        """Read the last mark again before the next one: a transaction may have failed that has written one."""
        self._last = None

    def begin(self) -> None:
        """Read what is known, before changes get their numbers."""
        if self._last is not None:
            return
        (self._last,) = self._driver.rows(sql.time_marks.LAST, {})[0]
        if self._highest_at:
            return
        found = self._driver.rows(sql.time_marks.HIGHEST_MESSAGE_ID, {})
        # A time that is too late only costs a few more items. An id that capture has not made may hide others, so that
        # nothing is known.
        at = found[0][0][:_DIGITS] if found else "0"
        self._highest_at = int(at) if at.isdecimal() else _NEVER

    def first_since(self, topic: str, since: int, *, pruned_seq: int, head_seq: int) -> int | None:
        """Return the lowest number of a topic's changes since a time, or a lower one if the clock was set back.

        :param since: milliseconds since the epoch.
        :param pruned_seq: the log holds all changes above this number.
        :param head_seq: the log's last number.
        :returns: None if there are no marks close enough: the log is older than they are.
        """
        with translated(self._connection):
            found = self._driver.rows(sql.time_marks.BEFORE, {"since": since})
            after = max(found[0][0], pruned_seq) if found else pruned_seq
            ((following,),) = self._driver.rows(sql.time_marks.AFTER, {"seq": after})
            if (following or head_seq) - after > _FARTHEST:
                return None
            upto = min(after + _FARTHEST, head_seq)
            wanted = {"topic": topic, "after": after, "upto": upto, "since": since}
            first = self._driver.rows(sql.time_marks.FIRST_SINCE, wanted)
        return int(first[0][0]) if first else upto + 1
