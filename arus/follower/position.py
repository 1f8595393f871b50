"""The receiver's algorithm, without any I/O: positions, gaps, catch-ups, and the watermark over all topics.

A topic's position says: all of this topic up to here is applied. `previousSeq` of each change ties it to the
one before it; where the two don't meet there is a gap, and a catch-up is asked for. Everything here is told
only what has been applied in the same transaction that saves it.

A number is what the vessel's messages say, and one of them may lie: only a catch-up that was asked for, or an
audit, proves anything. What contradicts a position (a change below it that is news, the head in the answer to a
request) takes the position back to what was proved, and the rest is asked for.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .inbound import Begin, End, Heads

#: Ranges remembered above a watermark, and beyond a topic's gaps: more are forgotten, and fetched again.
MAX_RANGES = 500
#: Numbers that a live change may be ahead of all that is known of: a vessel's queue is shorter, and alerts may
#: pass the whole of it. What is further ahead is fetched instead of believed.
MAX_LEAP = 100_000
#: Ids of requests for the same whose answers may still come.
MAX_EARLIER = 8
#: Past epochs of a vessel that are remembered.
MAX_PAST = 16
#: Items of a catch-up that may come again and are recognised.
_MAX_REPEATED = 4096


class Need(StrEnum):
    """What has to be asked for."""

    NOTHING = ""
    #: What came after the position.
    CHANGES = "changes"
    #: All there is: nothing of this topic was ever received.
    EVERYTHING = "everything"
    #: The present rows: what is here is of another epoch.
    SNAPSHOT = "snapshot"
    #: The present rows of some buckets: an audit found them to differ.
    ROWS = "rows"


class Ranges:
    """A set of numbers, kept as ranges."""

    def __init__(self, ranges: Iterable[Sequence[int]] = ()) -> None:
        self._ranges = [(low, high) for low, high in ranges]

    def add(self, number: int) -> None:
        """Put a number in."""
        ranges = self._ranges
        if ranges and ranges[-1][1] == number - 1:  # nearly always
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
        """Return the end of the unbroken run from `number` on; forget what is below."""
        ranges = self._ranges
        while ranges and ranges[0][0] <= number + 1:
            number = max(number, ranges.pop(0)[1])
        return number

    def clear(self) -> None:
        """Forget all."""
        self._ranges.clear()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)


@dataclass(slots=True)
class Request:
    """A catch-up that was asked for."""

    id: str
    #: Milliseconds: when it was sent last, and when something of its answer came last.
    asked_at: int
    heard_at: int = 0
    attempts: int = 0
    #: The answer has begun.
    begun: bool = False
    #: The answer was no use; another is asked for once the pause is over.
    failed: bool = False
    #: The highest number that was known of the topic when it was asked: its answer can't know of less.
    known: int = 0
    #: Ids that the same was asked for under before, whose answers may be on their way.
    earlier: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Run:
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
    #: It fills a need, so that what is seen in it is noted.
    useful: bool
    #: What rows seen in it are marked with; 0 where nothing is swept after it.
    mark: int = 0
    #: The next item's place, and the digest over those before it.
    expected: int = 0
    digest: str = ""
    #: An item was missing.
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Proof:
    """What the end of a catch-up has proved: all up to `high_seq` is here."""

    high_seq: int
    #: Rows with no newer change than `high_seq` and without this mark are gone; 0: nothing is swept.
    sweep: int = 0
    #: Only rows of these buckets.
    buckets: tuple[int, ...] | None = None


@dataclass(slots=True)
class Position:
    """How far one topic of one vessel is applied."""

    topic: str
    entity: str
    #: All of this topic up to here is applied.
    seq: int = 0
    #: Up to here that was proved: by a catch-up that was asked for, or by an audit.
    proven: int = 0
    #: What is applied beyond gaps: the number before and the last number of each unbroken run.
    beyond: list[tuple[int, int]] = field(default_factory=list)
    need: Need = Need.NOTHING
    #: What `Need.ROWS` is about.
    buckets: tuple[int, ...] = ()
    request: Request | None = None
    run: Run | None = None
    mark: int = 0
    #: The highest number that was believed before the position was taken back; until an answer tells the head.
    disbelieved: int = 0
    # The digest before each of the run's last items.
    _before: OrderedDict[int, str] = field(default_factory=OrderedDict, repr=False)

    @property
    def wants(self) -> Need:
        """What has to be asked for, gaps included."""
        if self.need is Need.NOTHING and self.beyond:
            return Need.CHANGES
        return self.need

    @property
    def is_empty(self) -> bool:
        """Whether what was before the first change received is still to come."""
        return self.need in {Need.EVERYTHING, Need.SNAPSHOT}

    @property
    def highest(self) -> int:
        """The highest number that is taken for applied."""
        return max(self.seq, *(end for _, end in self.beyond)) if self.beyond else self.seq

    def applied(self, previous_seq: int, seq: int, floor: int = 0) -> bool:
        """Note a live change that was applied, or was known already; tell whether it opened a gap.

        :param floor: all topics are applied up to here.
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
        del self.beyond[MAX_RANGES:]
        return True

    def reach(self, seq: int) -> None:
        """Note that all up to `seq` is applied."""
        self.seq = max(self.seq, seq)
        while self.beyond and self.beyond[0][0] <= self.seq:
            self.seq = max(self.seq, self.beyond.pop(0)[1])

    def begin(self, begin: Begin, now: int) -> Run:
        """A catch-up begins; also anew, after the vessel's or our own crash."""
        mine = self.is_mine(begin.request_id)
        if mine and self.request is not None:
            self.request.begun = True
            self.request.heard_at = now
        useful = mine and begin.mode != "must_refetch" and self._fills(begin)
        mark = 0
        if useful and begin.mode == "snapshot":
            self.mark += 1
            mark = self.mark
        run = Run(
            begin.catchup_id,
            begin.mode,
            begin.high_seq,
            begin.total,
            begin.since_seq,
            begin.complete,
            begin.buckets,
            useful,
            mark,
        )
        # What somebody else has asked for does not break off what we have.
        if mine or self.run is None or not self.run.useful:
            self._before.clear()
            self.run = run
        return run

    def _fills(self, begin: Begin) -> bool:
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
        """Note an item; return the run that it belongs to, if that is known.

        :param link: what the item adds to the digest.
        """
        run = self.run
        if run is None or run.catchup_id != catchup_id:
            return None
        if self.request is not None and run.useful:
            self.request.heard_at = now
        if sequence > run.expected:
            run.broken = True
        elif sequence == run.expected:
            self._add(run, sequence, run.digest, link)
        elif (before := self._before.get(sequence)) is not None and not self._is_repeated(
            run, sequence, before, link
        ):
            # The vessel goes on behind its last acknowledged item, and a row has changed since.
            for later in [number for number in self._before if number >= sequence]:
                del self._before[later]
            self._add(run, sequence, before, link)
        return run

    def _is_repeated(self, run: Run, sequence: int, before: str, link: str) -> bool:
        after = run.digest if sequence + 1 == run.expected else self._before.get(sequence + 1)
        return after == chained(before, link)

    def _add(self, run: Run, sequence: int, before: str, link: str) -> None:
        self._before[sequence] = before
        if len(self._before) > _MAX_REPEATED:
            self._before.popitem(last=False)
        run.digest = chained(before, link)
        run.expected = sequence + 1

    def end(self, end: End, now: int) -> Proof | None:
        """A catch-up ends; return what it proves, once everything of it is applied."""
        run, request = self.run, self.request
        if run is not None and run.catchup_id == end.catchup_id:
            self.run = None
            self._before.clear()
            if self._proves(run, end):
                return self._proved(run, now)
        if request is None or not self.is_mine(end.request_id):
            return None
        if end.mode == "must_refetch" and self.need in {Need.NOTHING, Need.CHANGES}:
            self.need, self.request = Need.EVERYTHING, None
        else:
            request.failed, request.asked_at = True, now
        return None

    def _proves(self, run: Run, end: End) -> bool:
        return (
            run.useful
            and not run.broken
            and end.next is None
            and run.expected == end.total
            and run.digest == end.digest
        )

    def _proved(self, run: Run, now: int) -> Proof:
        if run.buckets is not None:
            self.need, self.buckets, self.request = Need.NOTHING, (), None
            return Proof(run.high_seq, run.mark, run.buckets)
        self.proven = max(self.proven, run.high_seq)
        self.reach(run.high_seq)
        if self.need is not Need.ROWS:
            self.need = Need.NOTHING
            # What is beyond a gap still may be of after that catch-up, or a lie: ask, but not at once.
            attempts = self.request.attempts + 1 if self.request is not None else 0
            self.request = Request("", now, now, attempts, failed=True) if self.beyond else None
        return Proof(run.high_seq, run.mark)

    def is_mine(self, request_id: str | None) -> bool:
        """Whether it is an id that we have asked with for what is missing now."""
        request = self.request
        if request is None or not request_id:
            return False
        return request_id == request.id or request_id in request.earlier

    def retract(self, high_seq: int | None = None) -> None:
        """Go back to what was proved, and have what comes after it asked for.

        :param high_seq: the vessel has not given out more; what was proved above it was proved by a lie.
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
            if high_seq is None:  # else it is the answer to the request that has told
                self.request = self.run = None

    def forget(self) -> None:
        """Begin anew: the vessel has begun another epoch."""
        self.seq = self.proven = self.disbelieved = 0
        self.beyond.clear()
        self.need, self.buckets = Need.SNAPSHOT, ()
        self.request = self.run = None
        self._before.clear()


@dataclass(slots=True)
class VesselState:
    """What is known of one vessel."""

    vessel_id: str
    epoch: str
    #: Epochs that have ended.
    past: list[str] = field(default_factory=list)
    #: All up to here is applied, over all topics.
    seq: int = 0
    #: What is applied above.
    above: Ranges = field(default_factory=Ranges)
    #: The highest number that the vessel is known to have given out.
    head: int = 0
    #: The last number that the vessel itself has named as its head: what is above is believed only.
    confirmed: int = 0
    online: bool | None = None
    pending: int | None = None
    heard_at: int = 0
    changed_at: int | None = None
    #: The last comparison with the vessel's digest, as it goes into the watermark.
    audit: Any = None
    positions: dict[str, Position] = field(default_factory=dict)
    #: The last heads heard with nothing pending: who is behind them has lost something. And when.
    heads: Heads | None = None
    heads_at: int = 0
    #: Messages about other vessels' rows that were kept for a person, by this process.
    foreign_kept: int = 0
    #: Something is to be saved.
    changed: bool = False

    def position(self, topic: str) -> Position | None:
        """Return the position of a topic, if it is followed."""
        return self.positions.get(topic)

    def counted(self, seq: int) -> None:
        """Note that the change numbered `seq` is applied."""
        self.head = max(self.head, seq)
        if seq > self.seq:
            self.above.add(seq)

    def is_credible(self, seq: int) -> bool:
        """Whether a live change may have that number, by all that is known."""
        return seq <= max(self.head, self.seq) + MAX_LEAP or seq <= self.highest + MAX_LEAP

    @property
    def highest(self) -> int:
        """The highest number that is taken for applied, on any topic."""
        return max([self.seq, *(one.highest for one in self.positions.values())])

    def look_into(self, seq: int, *, most: int | None = None) -> None:
        """Have the vessel asked about topics that are taken to have come further than `seq`.

        :param most: so many of them at most, those that have come furthest; None for all.
        """
        doubtful = [
            position
            for position in self.positions.values()
            if position.need is Need.NOTHING and max(position.highest, self.seq) > seq
        ]
        doubtful.sort(key=lambda position: position.highest, reverse=True)
        for position in doubtful[:most]:
            position.need = Need.CHANGES
            self.changed = True

    def announced(self, seq: int) -> None:
        """The vessel says, just now, that it has given out no more: what is above is to be looked into."""
        self.head = self.confirmed = seq
        self.look_into(seq)

    def proved(self, seq: int) -> None:
        """An audit has found the copy equal at a number."""
        for position in self.positions.values():
            position.proven = max(position.proven, min(seq, self.reached(position)))

    def disproves(self, begin: Begin) -> bool:
        """Tell whether the answer to a request shows that numbers were believed that were never given out."""
        position = self.positions[begin.topic]
        request = position.request
        # An answer is younger than its question, and all that was known then had been given out before.
        return (
            request is not None
            and position.is_mine(begin.request_id)
            and begin.high_seq < request.known
        )

    def begun(self, begin: Begin, now: int) -> None:
        """A catch-up begins."""
        position = self.positions[begin.topic]
        if position.request is not None and position.is_mine(begin.request_id):
            position.request.known = min(position.request.known, begin.high_seq)
            position.disbelieved = 0
            self.confirmed = begin.high_seq
            self.head = max([begin.high_seq, *(one.highest for one in self.positions.values())])
        position.begin(begin, now)

    def retract(self, position: Position, high_seq: int | None = None) -> None:
        """Take a topic back to what was proved of it, and with it what it has proved."""
        position.retract(high_seq)
        self.seq = min([self.seq, *(one.seq for one in self.positions.values())])
        self.above.clear()
        self.heads = None
        # Rows may have been written that the vessel does not have.
        self.audit = None

    def settle(self) -> None:
        """Move the watermark up as far as what is applied allows."""
        if self.positions:
            self.seq = max(self.seq, min(position.seq for position in self.positions.values()))
        if not any(position.is_empty for position in self.positions.values()):
            self.seq = self.above.follow(self.seq)

    def told(self, heads: Heads) -> None:
        """Take note how far each topic had come at one number: up to it, nothing else is to come."""
        if heads.epoch != self.epoch:
            return
        self.head = max(self.head, heads.seq)
        for topic, position in self.positions.items():
            if self.reached(position) >= heads.topics.get(topic, 0) and not position.is_empty:
                position.reach(heads.seq)
        self.settle()

    def reached(self, position: Position) -> int:
        """Return up to where a topic is applied."""
        return max(position.seq, self.seq)

    def behind(self, heads: Heads) -> list[Position]:
        """Return the positions that are behind those heads."""
        if heads.epoch != self.epoch:
            return []
        return [
            position
            for topic, position in self.positions.items()
            if self.reached(position) < heads.topics.get(topic, 0)
        ]

    def begin_epoch(self, epoch: str) -> None:
        """The vessel's numbers begin anew."""
        others = [one for one in self.past if one != epoch]
        self.past = [*others, self.epoch][-MAX_PAST:]
        self.epoch = epoch
        self.seq = self.head = self.confirmed = 0
        self.above.clear()
        self.heads = None
        self.audit = None
        self.changed = True
        for position in self.positions.values():
            position.forget()

    @property
    def caught_up(self) -> bool:
        """Whether nothing is known to be missing."""
        return not any(position.wants for position in self.positions.values())


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a follower waits, in seconds."""

    #: For the answer to a request; doubled with each attempt up to `longest`.
    answer: float = 20.0
    longest: float = 900.0
    #: After an answer that was no use; doubled likewise.
    failure: float = 2.0
    #: For the next message of an answer.
    progress: float = 60.0
    #: For the tail of what was published before a status.
    grace: float = 3.0

    def until_asked_again(self, request: Request) -> int:
        """Return the milliseconds after an attempt."""
        first = self.failure if request.failed else self.answer
        return int(min(first * 2.0 ** min(request.attempts, 30), self.longest) * 1000)


def ask(
    vessel: VesselState, now: int, patience: Patience, new_id: Callable[[], str]
) -> list[dict[str, Any]]:
    """Return the requests that are due, and note them in the positions."""
    due: dict[Need, list[Position]] = {}
    for position in vessel.positions.values():
        if position.wants is Need.NOTHING:
            vessel.changed = vessel.changed or position.request is not None
            position.request = None
        elif _is_due(position, vessel, now, patience):
            due.setdefault(position.wants, []).append(position)
    requests = []
    for need, wanting in due.items():
        groups = [[position] for position in wanting]
        # One request for all entities is one catch-up at one number.
        if need is not Need.ROWS and len(wanting) == len(vessel.positions) > 1:
            groups = [wanting]
        for group in groups:
            request_id = _id_again(group) or new_id()
            for position in group:
                position.request = _asked(vessel, position, request_id, now)
            requests.append(_body(vessel, need, group, request_id))
    vessel.changed = vessel.changed or bool(requests)
    return requests


def _asked(vessel: VesselState, position: Position, request_id: str, now: int) -> Request:
    before = position.request
    known = max(vessel.reached(position), position.highest, position.disbelieved)
    if before is None or before.failed:
        return Request(request_id, now, now, before.attempts + 1 if before else 0, known=known)
    ids = [one for one in (*before.earlier, before.id) if one and one != request_id]
    # Answers to what was asked first may come still, and know of no more than was known then.
    return Request(
        request_id,
        now,
        now,
        before.attempts + 1,
        known=min(known, before.known),
        earlier=ids[-MAX_EARLIER:],
    )


def unanswered(vessel: VesselState) -> list[dict[str, Any]]:
    """Return the requests whose answer has not begun: a connection's end may have eaten them."""
    groups: dict[tuple[str, Need], list[Position]] = {}
    for position in vessel.positions.values():
        request = position.request
        if request is not None and not request.begun and not request.failed and position.wants:
            groups.setdefault((request.id, position.wants), []).append(position)
    return [_body(vessel, need, group, request_id) for (request_id, need), group in groups.items()]


def _is_due(position: Position, vessel: VesselState, now: int, patience: Patience) -> bool:
    request = position.request
    if request is None:
        return True
    if now < request.asked_at:  # the clock was set back
        request.asked_at = request.heard_at = now
    waited = now - request.asked_at
    if request.failed:
        return waited >= patience.until_asked_again(request)
    if vessel.online is False:
        return False  # the broker keeps what was asked until the vessel comes
    if request.begun:
        return now - max(request.heard_at, request.asked_at) >= patience.progress * 1000
    return waited >= patience.until_asked_again(request)


def _id_again(group: list[Position]) -> str | None:
    """Return the id to ask with once more, every other time: the request may not have arrived.

    A vessel takes the same id for the same request. It may also have answered already, in vain.
    """
    ids = {
        position.request.id
        for position in group
        if position.request
        and not position.request.begun
        and not position.request.failed
        and position.request.attempts % 2 == 0
    }
    alike = len(ids) == 1 and all(position.request for position in group)
    return ids.pop() if alike else None


def _body(
    vessel: VesselState, need: Need, group: list[Position], request_id: str
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "requestId": request_id,
        "vesselId": vessel.vessel_id,
        "entity": group[0].entity if len(group) == 1 else "all",
        "limit": None,
    }
    if need is Need.CHANGES:
        body["sinceSeq"] = min(vessel.reached(position) for position in group)
        body["epoch"] = vessel.epoch
    elif need in {Need.SNAPSHOT, Need.ROWS}:
        body["mode"] = "snapshot"
    if need is Need.ROWS:
        body["buckets"] = list(group[0].buckets)
    return body


def chained(digest: str, link: str) -> str:
    """Return the digest of a sequence of items that ends with `link`."""
    return hashlib.sha256(f"{digest}{link}".encode(errors="surrogatepass")).hexdigest()


def link_of(entity: str, row_id: str, version: int, operation: str) -> str:
    """Return what an item adds to the digest of its catch-up."""
    return f"{entity}/{row_id}/{version}/{operation}"


def is_news(
    version: int,
    content: Callable[[], str],
    known: tuple[int, str] | None,
    *,
    of_snapshot: bool,
) -> bool:
    """Tell whether a change is to be applied.

    :param content: the hash of its row; empty for a delete. Asked only where it decides.
    :param known: version and hash of the row here, tombstones included.
    :param of_snapshot: it tells the vessel's present state, whose word counts in the same version too.
    """
    if known is None or version > known[0]:
        return True
    return of_snapshot and version == known[0] and content() != known[1]
