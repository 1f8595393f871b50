"""The receiver's algorithm, without any I/O: positions, gaps, catch-ups, and the watermark over all topics.

A topic's position is the number up to which all its changes are applied. `previousSeq` links each change to the
one before it; if it is above the position, there is a gap, and a catch-up is requested. This module is told of a
change only in the transaction that applies it, and the positions are saved in the same transaction.

Numbers come from the vessel's messages, and a message may be wrong or forged: only a requested catch-up or an audit
proves a position. If something contradicts a position (a change below it that is new, the head in the answer to a
request), the position is reset to the proved number, and the rest is requested.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum

from arus.protocol.catchups import chained
from arus.protocol.messages import CatchupBegin, CatchupEnd

from .runs import Proof, Run, Sweep

#: Earlier ids of a request whose answers may still arrive.
MAX_EARLIER = 8
#: Seconds for which a repair that the vessel has announced is waited for.
REPAIR_PERIOD = 1800.0
#: Unbroken runs beyond the gaps of a topic: further ones are dropped and fetched again.
MAX_RUNS = 2_000
#: Items that may be missing in a catch-up that is accepted all the same, and answers in a row in which so many were
#: missing: they are larger than MQTT_MAX_PACKET_SIZE, so a broker that knows it never sends them.
MAX_MISSING = 100
ANSWERS = 3
#: More rows than any sweep may delete without a digest.
UNKNOWN_SWEPT = 2**53
#: Items of a catch-up that are recognised if they are sent again.
_MAX_REPEATED = 4096


class Need(StrEnum):
    """What has to be requested."""

    NOTHING = ""
    #: The changes after the position.
    CHANGES = "changes"
    #: Everything: nothing of this topic was ever received.
    EVERYTHING = "everything"
    #: The current rows: the copy is of another epoch.
    SNAPSHOT = "snapshot"
    #: The current rows of some buckets: an audit found them to differ.
    ROWS = "rows"


@dataclass(slots=True)
class Request:
    """A catch-up that was requested."""

    id: str
    #: Milliseconds: when it was last sent, and when a part of its answer was last received.
    asked_at: int
    heard_at: int = 0
    attempts: int = 0
    #: The answer has begun.
    begun: bool = False
    #: The answer was unusable; the request is repeated after a pause.
    failed: bool = False
    #: The highest known number of the topic when it was sent; a lower head in the answer disproves it.
    known: int = 0
    #: Earlier ids of the same request, whose answers may still arrive.
    earlier: list[str] = field(default_factory=list)
    #: Which items were missing in the last answer (`Run.gaps`), and in how many answers in a row.
    gaps: str = ""
    answers: int = 0
    #: How often in a row it was sent without an answer that has begun.
    unanswered: int = 0


@dataclass(slots=True)
class Position:
    """How far one topic of one vessel is applied."""

    topic: str
    entity: str
    #: All of this topic up to this number is applied.
    seq: int = 0
    #: Up to this number that is proved: by a requested catch-up, or by an audit.
    proven: int = 0
    #: Unbroken runs applied beyond gaps: of each, the number before it and its last number.
    beyond: list[tuple[int, int]] = field(default_factory=list)
    need: Need = Need.NOTHING
    #: The buckets of `Need.ROWS`.
    buckets: tuple[int, ...] = ()
    #: The last request for `Need.ROWS` that was answered in full, and the catch-up that has answered it.
    repaired: tuple[str, str] | None = None
    request: Request | None = None
    run: Run | None = None
    mark: int = 0
    #: The sweep at the end of the last snapshot, if it waits for a digest.
    sweep: Sweep | None = None
    #: Rows swept without a digest since an audit has found the copy equal; not saved, so after a restart `UNKNOWN_SWEPT`.
    swept: int = 0
    #: The vessel is about to repair changes above this number; since when it says so, in milliseconds.
    repair_from: int | None = None
    repair_at: int = 0
    #: The highest number that counted as applied before a reset; kept until an answer contains the head.
    disbelieved: int = 0
    # The digest before each of the run's last items.
    _before: OrderedDict[int, str] = field(default_factory=OrderedDict, repr=False)

    @property
    def wants(self) -> Need:
        """What has to be requested, including gaps."""
        if self.need is Need.NOTHING and self.beyond:
            return Need.CHANGES
        return self.need

    @property
    def is_empty(self) -> bool:
        """Whether the state before the first received change is still missing."""
        return self.need in {Need.EVERYTHING, Need.SNAPSHOT}

    @property
    def highest(self) -> int:
        """The highest number that counts as applied."""
        return max(self.seq, *(end for _, end in self.beyond)) if self.beyond else self.seq

    def applied(self, previous_seq: int, seq: int, floor: int = 0) -> bool:
        """Note a live change that was applied, now or before; return whether it opened a gap.

        :param floor: the number up to which all topics are applied.
        """
        if floor > self.seq:
            self.reach(floor)
        if seq <= self.seq:
            return False
        if previous_seq <= self.seq:
            self.reach(seq)
            return False
        for at, (start, end) in enumerate(self.beyond):
            if start <= previous_seq <= end:
                self.beyond[at] = (start, max(end, seq))
                return False
        bisect.insort(self.beyond, (previous_seq, seq))
        del self.beyond[MAX_RUNS:]
        return True

    def reach(self, seq: int) -> None:
        """Note that everything up to `seq` is applied."""
        self.seq = max(self.seq, seq)
        while self.beyond and self.beyond[0][0] <= self.seq:
            self.seq = max(self.seq, self.beyond.pop(0)[1])

    def begin(self, begin: CatchupBegin, now: int, *, reported: bool = False) -> Run | None:
        """Note the beginning of a catch-up; it may be repeated after a crash of the vessel or of this process.

        :param reported: the vessel waits for reports of what was received.
        :returns: None if it is not for us.
        """
        mine = self.is_mine(begin.request_id)
        covers = [] if mine else _repaired_by(begin, self.repair_from)
        if not mine and (not (reported or covers) or (self.run is not None and self.run.useful)):
            return None  # somebody else's
        if mine and self.request is not None:
            self.request.begun = True
            self.request.heard_at = now
        useful = mine and begin.mode != "must_refetch" and self._fills(begin)
        mark = 0
        if useful and begin.mode == "snapshot":
            self.mark += 1
            mark = self.mark
            self.sweep = None  # its rows are marked anew
        run = Run(
            begin.catchup_id,
            begin.mode,
            begin.high_seq,
            begin.total,
            begin.since_seq,
            begin.complete,
            begin.buckets,
            useful,
            asked=mine,
            covers=covers,
            mark=mark,
            reported=reported,
            start=self.seq,
            request_id=begin.request_id or "",
        )
        self._before.clear()
        self.run = run
        return run

    def is_repaired(self, now: int) -> bool:
        """Whether the vessel is about to send what is missing by itself."""
        return (
            self.repair_from is not None
            and self.seq >= self.repair_from
            and 0 <= now - self.repair_at < REPAIR_PERIOD * 1000
        )

    def _fills(self, begin: CatchupBegin) -> bool:
        wants = self.wants
        if wants is Need.NOTHING:
            return False
        if begin.buckets is not None or wants is Need.ROWS:
            return (
                wants is Need.ROWS
                and begin.mode == "snapshot"
                and set(begin.buckets or ()) == set(self.buckets)
            )
        if begin.mode == "snapshot":
            return begin.complete
        return (
            wants is not Need.SNAPSHOT
            and begin.since_seq is not None
            and begin.since_seq <= self.seq
        )

    def item(self, catchup_id: str, sequence: int, link: str, now: int) -> Run | None:
        """Note an item; return the run that it belongs to, or None if it is unknown.

        :param link: the text that the item adds to the digest.
        """
        run = self.run
        if run is None or run.catchup_id != catchup_id:
            return None
        if sequence > run.received:
            run.missing += sequence - run.received
            run.gaps = chained(run.gaps, f"{sequence - run.received} before {link}")
        run.received = max(run.received, sequence + 1)
        if self.request is not None and run.useful:
            self.request.heard_at = now
        if run.covers:
            self.repair_at = now
        if sequence > run.expected:
            run.broken = True
        elif sequence == run.expected:
            self._add(run, sequence, run.digest, link)
        elif (before := self._before.get(sequence)) is not None and not self._is_repeated(
            run, sequence, before, link
        ):
            # The vessel has resumed after its last acknowledged item, and a row has changed since.
            for later in [number for number in self._before if number >= sequence]:
                del self._before[later]
            self._add(run, sequence, before, link)
        return run

    def advance(self, run: Run, sequence: int, seq: int) -> None:
        """Note that an item of a run is applied: in a log, everything up to the last item's number is.

        The position is believed, not proved: if the end of the run contradicts it, it is reset.
        """
        if not run.is_chained or sequence + 1 != run.expected:
            return
        self.reach(seq)
        if self.need is Need.EVERYTHING and run.since_seq == 0:
            self.need = Need.CHANGES  # an interrupted catch-up is continued from the position

    def _is_repeated(self, run: Run, sequence: int, before: str, link: str) -> bool:
        after = run.digest if sequence + 1 == run.expected else self._before.get(sequence + 1)
        return after == chained(before, link)

    def _add(self, run: Run, sequence: int, before: str, link: str) -> None:
        self._before[sequence] = before
        if len(self._before) > _MAX_REPEATED:
            self._before.popitem(last=False)
        run.digest = chained(before, link)
        run.expected = sequence + 1

    def end(self, end: CatchupEnd, now: int) -> Proof | None:
        """Note the end of a catch-up; return the proof if all its items were applied."""
        run, request = self.run, self.request
        if run is not None and run.catchup_id == end.catchup_id:
            self.run = None
            self._before.clear()
            is_whole = run.is_whole(end)
            if run.covers and is_whole:
                for start, last in run.covers:
                    self.applied(start, last)
            if run.useful and is_whole:
                return self._proved(run, now)
            if run.is_cut(end) and self.need in {Need.NOTHING, Need.CHANGES}:
                return _filled(self, run, now)
            if missing := self._never_arrives(run, end):
                return self._proved(run, now, missing)
        if request is None or not self.is_mine(end.request_id):
            return None
        if end.mode == "must_refetch" and self.need in {Need.NOTHING, Need.CHANGES}:
            self.need, self.request = Need.EVERYTHING, None
        else:
            self.fail(now)
        return None

    def _never_arrives(self, run: Run, end: CatchupEnd) -> int:
        """Return how many items were missing in this answer and in those before it; 0 to request them again."""
        request = self.request
        tail = max(0, end.total - run.received)
        missing = run.missing + tail
        if request is None or not run.useful or not missing or end.next is not None:
            return 0
        gaps = chained(run.gaps, f"{tail} at the end")
        request.answers = request.answers + 1 if request.gaps == gaps else 1
        request.gaps = gaps
        return missing if request.answers >= ANSWERS and missing <= MAX_MISSING else 0

    def _proved(self, run: Run, now: int, missing: int = 0) -> Proof:
        # A row that did not arrive must not be swept.
        mark = 0 if missing else run.mark
        if run.buckets is not None:
            self.need, self.buckets, self.request = Need.NOTHING, (), None
            self.repaired = (run.request_id, run.catchup_id)
            return Proof(run.high_seq, mark, run.buckets, missing)
        self.proven = max(self.proven, run.high_seq)
        self.reach(run.high_seq)
        if self.need is not Need.ROWS:
            self.need = Need.NOTHING
            # Runs still beyond a gap may be later than the catch-up, or false: request again, but not at once.
            attempts = self.request.attempts + 1 if self.request is not None else 0
            self.request = Request("", now, now, attempts, failed=True) if self.beyond else None
        complete = run.complete or run.since_seq == 0
        return Proof(run.high_seq, mark, None, missing, complete)

    def is_mine(self, request_id: str | None) -> bool:
        """Whether it is an id of our current request."""
        request = self.request
        if request is None or not request_id:
            return False
        return request_id == request.id or request_id in request.earlier

    def pause(self, now: int) -> None:
        """Note that what is missing is not to be requested at once."""
        if self.request is None:
            self.request = Request("", now, now, failed=True)

    def fail(self, now: int) -> None:
        """Note that the answer to the current request is of no use: it is requested again after a pause."""
        if self.request is not None:
            self.request.failed, self.request.asked_at = True, now

    def retract(self, high_seq: int | None = None) -> None:
        """Reset the position to the proved number, and request the changes after it.

        :param high_seq: the highest number that the vessel has assigned; a proof above it was false.
        """
        if high_seq is None:
            self.disbelieved = max(self.disbelieved, self.highest)
        elif self.proven > high_seq:
            self.proven = 0
        if high_seq is None or self.seq > high_seq:
            self.seq = min(self.seq, self.proven)
        self.beyond.clear()
        if self.need in {Need.NOTHING, Need.ROWS}:
            self.need, self.buckets = Need.CHANGES, ()
            # Otherwise `high_seq` is from the answer to the current request, which continues.
            if high_seq is None:
                self.request = self.run = None

    def absent(self, seq: int) -> None:
        """Note that the vessel has no such entity at that number: there is nothing to request."""
        self.need, self.buckets = Need.NOTHING, ()
        self.request = self.run = None
        self.beyond.clear()
        self.reach(seq)

    def go_back(self, seq: int) -> None:
        """Reset the position to an earlier number, and request the changes after it."""
        self.seq = min(self.seq, max(seq, self.proven))
        self.beyond.clear()
        if self.need is Need.NOTHING:
            self.need = Need.CHANGES

    def forget(self) -> None:
        """Reset the position: the vessel has begun another epoch."""
        self.seq = self.proven = self.disbelieved = 0
        self.beyond.clear()
        self.need, self.buckets = Need.SNAPSHOT, ()
        self.request = self.run = self.sweep = self.repair_from = None
        self._before.clear()


def _filled(position: Position, run: Run, now: int) -> Proof | None:
    """Note the end of a catch-up that had to fill a gap; further gaps are requested at once."""
    if run.mode == "log" and position.seq > run.start:
        position.request = None
        if position.wants is Need.NOTHING and position.seq < run.high_seq:
            # The rest may be on its way; if it is lost too, nothing that follows it tells.
            position.need = Need.CHANGES
            position.request = Request("", now, now, 1, failed=True)
        return Proof(position.seq)
    if run.mode == "snapshot":  # the log does not reach back to the gap
        position.need, position.request = Need.EVERYTHING, None
    else:
        position.fail(now)
    return None


def _repaired_by(begin: CatchupBegin, since: int | None) -> list[tuple[int, int]]:
    """Return the ranges of dropped changes that a repair stands for, if the vessel's status has announced it.

    :param since: the number before the first, by the status.
    """
    covers = sorted(begin.covers or ())
    is_repair = begin.request_id is None and begin.mode == "log" and begin.since_seq is None
    if not covers or not is_repair or since is None or covers[0][0] < since:
        return []
    is_plausible = all(start < end <= begin.high_seq for start, end in covers)
    return covers if is_plausible else []
