"""The catch-up that a topic receives, and what its end proves."""

from __future__ import annotations

import bisect

from msgspec import Struct, field

from arus.protocol.catchups import chained
from arus.protocol.messages import CatchupEnd


class Run(Struct):
    """A catch-up that is being received."""

    catchup_id: str
    #: log or snapshot.
    mode: str
    high_seq: int
    total: int
    since_seq: int | None
    #: It covers all rows of the entity.
    complete: bool
    #: It covers all rows of these buckets.
    buckets: tuple[int, ...] | None
    #: It fulfils a need, so its items are tracked.
    useful: bool
    #: It answers a request of ours.
    asked: bool = False
    #: A repair: the ranges of changes that the vessel has dropped and that its items stand for, each as the number
    #: before the range and its last number.
    covers: list[tuple[int, int]] = field(default_factory=list)
    #: The mark of the rows in it; 0 if no sweep follows.
    mark: int = 0
    #: The index of the next item, and the digest over the items before it.
    expected: int = 0
    digest: str = ""
    #: An item was missing.
    broken: bool = False
    #: The vessel sends it to us, and no more than we report as received.
    reported: bool = False
    #: Items received, counting those that were missing before the last one.
    received: int = 0
    #: The position at its beginning.
    start: int = 0
    #: Items that did not arrive, or whose row has no readable id.
    missing: int = 0
    #: Which these are: the digest over the items after them.
    gaps: str = ""
    #: The id of the request that it answers.
    request_id: str = ""

    def takes(self, seq: int) -> bool:
        """Whether an item with that number may be applied: only if it was requested, or replaces dropped changes."""
        if self.covers:
            at = bisect.bisect_left(self.covers, (seq, 0)) - 1
            return at >= 0 and seq <= self.covers[at][1]
        return self.asked

    @property
    def is_chained(self) -> bool:
        """Whether its items continue the position: it is a useful log, and all its items so far were received."""
        return self.useful and self.mode == "log" and not self.broken

    def unidentified(self, link: str) -> None:
        """Note that the last item has no readable id, so that the digest of the run can't be checked.

        :param link: what is known of it.
        """
        self.broken = True
        self.missing += 1
        self.gaps = chained(self.gaps, link)

    def is_whole(self, end: CatchupEnd) -> bool:
        """Whether all its items were received, and there are no more."""
        return end.next is None and self._is_intact(end)

    def is_cut(self, end: CatchupEnd) -> bool:
        """Whether all its items were received, and there are more, beyond the limit of the request."""
        is_limited = self.useful and self.buckets is None and end.next is not None
        return is_limited and self._is_intact(end)

    def _is_intact(self, end: CatchupEnd) -> bool:
        return not self.broken and (self.expected, self.digest) == (end.total, end.digest)

    def is_contradicted_by(self, end: CatchupEnd) -> bool:
        """Whether all its items were received, but are not those that the vessel has sent."""
        return (
            self.catchup_id == end.catchup_id
            and self.is_chained
            and self.expected >= end.total
            and (self.expected, self.digest) != (end.total, end.digest)
        )


class Proof(Struct, frozen=True):
    """The proof given by the end of a catch-up: everything up to `high_seq` is applied."""

    high_seq: int
    #: Rows without this mark and without a change above `high_seq` are swept; 0 for no sweep.
    sweep: int = 0
    #: Only rows of these buckets are swept.
    buckets: tuple[int, ...] | None = None
    #: Items that did not arrive in any of several answers: rows that are not known here are among them.
    missing: int = 0
    #: It covers all rows of the entity.
    complete: bool = False


class Sweep(Struct):
    """A sweep of so many rows that it waits until a digest of the vessel agrees with what would be left."""

    high_seq: int
    mark: int
    buckets: tuple[int, ...] | None
    #: Number of rows that wait.
    rows: int
    #: The snapshot repairs rows that an audit found to differ.
    repairs: bool = False
    #: When a digest was last requested for it, in milliseconds, and how often before.
    asked_at: int = 0
    attempts: int = 0
    #: A digest did not agree: these rows stay, and a person should look.
    disputed: bool = False
    #: The fields over which a digest is needed, where the vessel's rows have others than the copy; found out again
    #: after a restart.
    fields: tuple[str, ...] = ()
