"""The state of the audits of one vessel, and of one comparison."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct, field
from sqlalchemy import Connection

from arus.database import transaction
from arus.follower.refusals import Refusals
from arus.follower.vessels import VesselState
from arus.protocol.digests import BUCKETS, SetDigest, bucket_of, differing
from arus.protocol.messages import Digest, FieldDifference
from arus.protocol.times import now_ms

from .fields import Rehashing, Usable
from .orphans import Orphaned
from .verification import Found

#: Seconds between two requests for a digest: the first pause, and the longest.
PAUSE = 2.0
LONGEST_PAUSE = 600.0
#: Seconds after which a repair that did not help is tried once more.
HOPELESS = 3600.0
#: Seconds after which a digest that can't be compared though nothing is known to be missing is discarded.
STALE = 60.0
#: The same for a vessel that has sent nothing since; and if it had more to send by its last status: on a busy link
#: or machine its digest is ahead of changes that are still to come.
QUIET = 10.0
QUIET_WHILE_PENDING = 30.0
#: Seconds between two requests that are due to changes which are new here and below what is proved.
QUESTION_PAUSE = 60.0
_EVERY_BUCKET = frozenset(range(BUCKETS))


class Table(Struct):
    """The comparison of one table."""

    #: The buckets whose digests differ, each with both sides' digests.
    differing: dict[int, tuple[str, str]] = field(default_factory=dict)
    found: Found = field(default_factory=Found)
    orphans: list[str] = field(default_factory=list)
    difference: FieldDifference | None = None
    #: The vessel has no such entity.
    absent: bool = False
    #: Rows that can't be read or written here: the reason by row id; the id is empty for rows that never arrive.
    refused: dict[str, str] = field(default_factory=dict)
    #: Buckets of these rows: a repair would bring them again.
    refused_buckets: frozenset[int] = frozenset()

    @property
    def wrong(self) -> list[str]:
        """Ids of rows that a repair can correct."""
        return [*self.found.changed, *self.orphans]

    @property
    def buckets(self) -> set[int]:
        """The buckets that a repair can correct."""
        return set(self.differing) | {bucket_of(row_id) for row_id in self.wrong}

    @property
    def equal(self) -> bool:
        """Whether the vessel's rows are here as they are aboard, belong to it, and nothing else is here."""
        return not (self.buckets or self.found.held_by or self.found.unapplied or self.refused)

    @property
    def repairable(self) -> bool:
        """Whether the vessel can send what is missing."""
        return not self.absent and not (self.difference and self.difference.needed)

    def signature(self, bucket: int) -> tuple[Any, ...]:
        """Return what a repair of a bucket starts from: if it is the same afterwards, another one can't help."""
        rows = tuple(sorted(row_id for row_id in self.wrong if bucket_of(row_id) == bucket))
        return (*self.differing.get(bucket, ()), rows)


def differing_buckets(ours: SetDigest, theirs: Usable) -> dict[int, tuple[str, str]]:
    """Return the buckets in which a digest differs from the vessel's, with both sides' digests."""
    mine = ours.buckets
    if len(theirs.buckets) != BUCKETS:
        return dict.fromkeys(range(BUCKETS), ("", ""))
    buckets: Iterable[int] = differing(mine, theirs.buckets)
    if not buckets and ours.count != theirs.count:
        buckets = range(BUCKETS)
    return {bucket: (mine[bucket], theirs.buckets[bucket]) for bucket in buckets}


def note_refused(
    refusals: Refusals, connection: Connection, vessel_id: str, entity: str, table: Table
) -> None:
    """Note which rows of a table were refused; must not be called in a transaction."""
    if refusals.is_disproved(vessel_id, entity, table.differing):
        with transaction(connection):
            refusals.disproved(vessel_id, entity, table.differing)
    refused = refusals.of(vessel_id, entity)
    table.refused = {one.row_id: one.reason for one in refused}
    is_known = all(one.row_id for one in refused)
    table.refused_buckets = frozenset(one.bucket for one in refused) if is_known else _EVERY_BUCKET


class Verification(Struct):
    """The comparison of a vessel's rows with their records, in its own thread."""

    digest: Digest
    tables: dict[str, Table]
    #: Whether the thread is still running.
    is_running: Callable[[], bool]
    #: Whether all tables were read.
    complete: bool = False


class Case(Struct):
    """The state of the audits of one vessel."""

    #: A digest that is not compared yet, when it was received (monotonic seconds), and its identity.
    digest: Digest | None = None
    heard_at: float = 0.0
    #: When the first digest came since the last one that was compared (monotonic seconds).
    waits_since: float = 0.0
    heard: tuple[Any, ...] = ()
    #: The highest number that counted as applied at the first comparison; None before it.
    known: int | None = None
    verification: Verification | None = None
    #: Tables whose rows have to be hashed again first.
    rehashing: list[Rehashing] = field(default_factory=list)
    #: Fields over which a digest has to be requested, by entity.
    fields: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: Buckets that differed the last time; a difference counts only if it is seen twice.
    suspected: set[tuple[str, int]] = field(default_factory=set)
    repairing: bool = False
    #: The entities of which the repair has requested rows.
    asked: set[str] = field(default_factory=set)
    #: Rows that the repair has changed, by entity.
    repaired: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    #: From what each bucket was repaired, since it was last equal, and the time until which that counts.
    attempted: dict[tuple[str, int], tuple[Any, ...]] = field(default_factory=dict)
    attempted_until: float = 0.0
    #: Something of the vessel was missing when this was last looked at.
    is_behind: bool = False
    #: Whether another digest is wanted, and the earliest time for its request in monotonic seconds.
    wanted: bool = False
    not_before: float = 0.0
    #: Monotonic seconds before which no message has another digest requested: somebody may forge them.
    question_after: float = 0.0
    #: It was requested since the vessel is said to be offline, which somebody may have forged.
    asked_away: bool = False
    #: Monotonic seconds before which nothing is repaired again.
    repair_after: float = 0.0
    pause: float = PAUSE
    #: Lines that were logged about the last verdict.
    said: tuple[str, ...] = ()

    def hear(self, digest: Digest) -> None:
        """Note a received digest; the last one counts."""
        heard = (digest.epoch, digest.seq, digest.timestamp)
        if heard == self.heard:  # on a new connection the broker sends the last one again
            return
        now = time.monotonic()
        if self.digest is None:
            self.waits_since = now
        self.digest, self.heard, self.known = digest, heard, None
        self.heard_at = now
        self.wanted = self.asked_away = False

    def again(self) -> None:
        """Schedule a request for another digest, with a longer pause each time.

        During a pause it stays as it is, however many digests are received: somebody may forge them.
        """
        self.wanted = True
        now = time.monotonic()
        if now >= self.not_before:
            self.not_before = now + self.pause
            self.pause = min(2 * self.pause, LONGEST_PAUSE)

    def is_stale(self, vessel: VesselState) -> bool:
        """Whether the changes that the digest includes have had the time to arrive: it may be forged."""
        waited = time.monotonic() - self.heard_at
        return self.is_quiet(vessel) or waited >= max(STALE, self.pause)

    def is_quiet(self, vessel: VesselState) -> bool:
        """Whether the vessel has sent nothing since the digest for so long that nothing is on its way."""
        waited = time.monotonic() - self.heard_at
        quiet = QUIET_WHILE_PENDING if vessel.is_draining else QUIET
        return min(waited, (now_ms() - vessel.heard_at) / 1000) >= quiet

    def soon(self) -> None:
        """Schedule a request for another digest."""
        self.wanted, self.not_before = True, time.monotonic() + PAUSE / 2

    def question(self) -> None:
        """Have a digest requested, at most one a minute."""
        now = time.monotonic()
        if now >= self.question_after:
            self.wanted, self.question_after = True, now + QUESTION_PAUSE

    def hurry(self) -> None:
        """Forget the pauses between requests for digests."""
        self.pause, self.not_before = PAUSE, 0.0

    def begin_repair(self) -> None:
        """Note that a repair begins."""
        self.repair_after = time.monotonic() + self.pause
        self.repairing = True
        self.repaired.clear()

    def check_repair(self) -> None:
        """Schedule the check of a repair's result.

        By another digest than the one that decided on its sweep: the next verdict would be there before the vessel was
        told of this one, which names the rows.
        """
        self.digest = None
        self.soon()

    def not_repaired(self, entity: str) -> None:
        """Note that the last repair of an entity was not carried out: another one may help."""
        for key in [key for key in self.attempted if key[0] == entity]:
            del self.attempted[key]
        self.soon()

    def is_doubtful(self, tables: Mapping[str, Table], orphans: Orphaned) -> bool:
        """Whether all that differs are buckets that did not differ the last time.

        A catch-up's rows may be newer than its number: a difference seen only once may be due to that.
        """
        seen = {(entity, bucket) for entity, table in tables.items() for bucket in table.differing}
        confirmed = seen & self.suspected
        self.suspected = seen
        found = any(table.found.changed for table in tables.values()) or any(orphans.values())
        return bool(seen) and not confirmed and not found

    def worth_repairing(self, tables: Mapping[str, Table]) -> dict[str, set[int]]:
        """Return the buckets to request, by entity, and note them: not those whose last repair changed nothing.

        What agrees now was repaired: if it differs again, as it did before, another repair helps again. After `HOPELESS`
        another repair is tried, but not of buckets with refused rows: these are requested again only when something in
        them has changed.
        """
        self.attempted = {
            (entity, bucket): signature
            for (entity, bucket), signature in self.attempted.items()
            if entity not in tables or bucket in tables[entity].buckets
        }
        now = time.monotonic()
        if now >= self.attempted_until:
            self.attempted = {
                (entity, bucket): signature
                for (entity, bucket), signature in self.attempted.items()
                if entity in tables and bucket in tables[entity].refused_buckets
            }
            self.attempted_until = now + HOPELESS
        wanted: dict[str, set[int]] = {}
        for entity, table in tables.items():
            if not table.repairable:
                continue
            for bucket in table.buckets:
                signature = table.signature(bucket)
                if self.attempted.get((entity, bucket)) != signature:
                    self.attempted[entity, bucket] = signature
                    wanted.setdefault(entity, set()).add(bucket)
        return wanted
