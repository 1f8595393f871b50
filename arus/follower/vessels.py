"""The state of a vessel as its follower knows it: its epoch, its positions, and the watermark over all topics."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from arus.protocol.messages import CatchupBegin, CatchupEnd, Heads, Progress, Status, Verdict

from .position import Need, Position
from .ranges import Ranges
from .runs import Proof, Run
from .vessel_history import VesselHistory

#: How far a live change may be above all known numbers: alerts may overtake a whole queue, and a vessel's queue is
#: shorter than this. A change further ahead is not applied but requested from the vessel.
MAX_LEAP = 100_000
#: Seconds for which a follower that is ahead of its vessel waits for the vessel's new epoch.
CLAIM = 30.0
#: Seconds between two checks of a status of an epoch that has ended.
CHECK = 10.0
#: Milliseconds that a vessel may make its catch-ups wait: until the end of a day, and the difference of the clocks.
LONGEST_PAUSE = 26 * 3_600_000
#: Past epochs of a vessel that are remembered.
MAX_PAST = 16


class VesselState(Struct):
    """The state of one vessel."""

    vessel_id: str
    epoch: str
    #: Epochs that have ended.
    past: list[str] = field(default_factory=list)
    #: The watermark: everything up to this number is applied, over all topics.
    seq: int = 0
    #: Numbers above the watermark that are applied.
    above: Ranges = field(default_factory=Ranges)
    #: The highest number that the vessel is known to have assigned.
    head: int = 0
    #: The last head reported by the vessel itself: numbers above it are unconfirmed.
    confirmed: int = 0
    online: bool | None = None
    pending: int | None = None
    #: Topics of which the vessel had no change in its last live status, if its log is complete; else None.
    untouched: frozenset[str] | None = None
    heard_at: int = 0
    #: Until when its data budget makes catch-ups wait, as far as that is believed; in milliseconds.
    paused_until: int = 0
    changed_at: int | None = None
    #: The result of the last comparison with the vessel's digest, as published in the watermark.
    audit: Verdict | None = None
    #: The head that the vessel has reported, if it is below what is proved here; and since when, in milliseconds.
    ahead_of: int | None = None
    ahead_since: int = 0
    #: When it was last checked whether an epoch that had ended is the vessel's again, in milliseconds.
    checked_at: int = 0
    positions: dict[str, Position] = field(default_factory=dict)
    #: The last heads received with nothing pending, and when: a position behind them has lost changes.
    heads: Heads | None = None
    heads_at: int = 0
    #: What was last received of a catch-up that the vessel sends to us, and how many items of such catch-ups since
    #: this process began.
    progress: Progress | None = None
    items: int = 0
    #: Number of dead letters about other vessels' rows that this process has kept.
    foreign_kept: int = 0
    #: Entities and fields without which its rows can't be written, as far as this process has logged them.
    lacking: set[tuple[str, str]] = field(default_factory=set)
    #: Topics on which a live change was received since the last one that could be read: nothing of it can be.
    unread: set[str] = field(default_factory=set)
    #: A catch-up that was requested of it has ended: it is no invention.
    is_proven: bool = False
    #: For people.
    history: VesselHistory = field(default_factory=VesselHistory)
    #: An audit has found it equal since this process began.
    was_equal: bool = False
    #: The state has to be saved.
    changed: bool = False

    def position_of(self, entity: str) -> Position:
        """Return the position of an entity's topic."""
        return next(one for one in self.positions.values() if one.entity == entity)

    def counted(self, seq: int) -> None:
        """Note that the change numbered `seq` is applied."""
        self.head = max(self.head, seq)
        if seq > self.seq:
            self.above.add(seq)

    def reported(self, status: Status, now: int, *, retained: bool = False) -> None:
        """Note what a status says about the log.

        :param now: milliseconds since the epoch.
        :param retained: the broker had kept it: what was pending then was sent before we subscribed.
        """
        self.online, self.pending = status.online, status.pending
        self._paused(status, now)
        self.untouched = None
        if status.online and status.complete and status.topics is not None and not retained:
            topics = status.topics
            self.untouched = frozenset(one for one in self.positions if not topics.get(one))

    def _paused(self, status: Status, now: int) -> None:
        until = status.pauses_until if status.online else None
        if until is not None:
            self.paused_until = min(until, now + LONGEST_PAUSE)
        elif status.online:
            self.paused_until = min(
                self.paused_until, now
            )  # it has gone on: the time of patience begins here

    def join(self) -> None:
        """Note that a live change was applied of a topic of which everything is still to be requested.

        If the vessel's log is complete and its number 1 was received live, nothing is requested of topics that were
        received from their first change on, and of those without a change. The next audit proves it. Without number 1,
        the epoch may have begun with a restored log, in which earlier rows have no number of this epoch.
        """
        first = next(iter(self.above), (0, 0))[0] if not self.seq else 1
        if self.untouched is None or first != 1:
            return
        for one in self.positions.values():
            is_whole = one.seq > 0 or one.topic in self.untouched
            if is_whole and one.need is Need.EVERYTHING and one.request is None:
                one.need = Need.NOTHING

    def is_credible(self, seq: int) -> bool:
        """Whether a live change may plausibly have that number."""
        return seq <= max(self.head, self.seq) + MAX_LEAP or seq <= self.highest + MAX_LEAP

    @property
    def highest(self) -> int:
        """The highest number that counts as applied, on any topic."""
        return max([self.seq, *(one.highest for one in self.positions.values())])

    def look_into(self, seq: int, *, most: int | None = None) -> None:
        """Request the changes of topics on which a number above `seq` counts as applied.

        :param most: at most this many of them, those with the highest numbers first; None for all.
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
        """Note the vessel's current head, which it has just reported: higher numbers are checked by requests."""
        self.head = self.confirmed = seq
        if seq >= self.seq:
            self.ahead_of = None
        self.look_into(seq)

    def claims(self, head: int, now: int) -> bool:
        """Return whether to hold on to numbers above the head that the vessel has reported.

        They must be proved, not only received. After `CLAIM` seconds without a new epoch the vessel is believed.
        """
        if self.seq <= head or max(one.proven for one in self.positions.values()) <= head:
            return False
        if self.ahead_of is None or not 0 < self.ahead_since <= now:
            self.ahead_since = now
        return now - self.ahead_since < CLAIM * 1000

    def check_epoch(self, now: int) -> None:
        """Request something: the answer shows whether the vessel is in an epoch that was considered ended."""
        if not 0 <= now - self.checked_at < CHECK * 1000:
            self.checked_at = now
            self.look_into(-1, most=1)

    def proved(self, seq: int) -> None:
        """Note that an audit has found the copy equal at a number."""
        self.was_equal = True
        for position in self.positions.values():
            position.swept = 0
            position.proven = max(position.proven, min(seq, self.reached(position)))

    def disproves(self, begin: CatchupBegin) -> bool:
        """Return whether the answer to a request shows that a known number was never assigned."""
        position = self.position_of(begin.entity)
        request = position.request
        # The answer is later than the request. So its head is below a number known at the request only if the vessel
        # has never assigned that number.
        return (
            request is not None
            and position.is_mine(begin.request_id)
            and begin.high_seq < request.known
        )

    def begun(self, begin: CatchupBegin, now: int, name: str) -> None:
        """Note the beginning of a catch-up.

        :param name: our own.
        """
        position = self.position_of(begin.entity)
        if position.request is not None and position.is_mine(begin.request_id):
            position.request.known = min(position.request.known, begin.high_seq)
            position.disbelieved = 0
            self.ahead_of = None
            self.confirmed = begin.high_seq
            self.head = max([begin.high_seq, *(one.highest for one in self.positions.values())])
        position.begin(begin, now, reported=begin.consumer == name)

    def announced_repairs(self, repairs: Mapping[str, int], now: int) -> None:
        """Note of which topics the vessel is about to repair dropped changes, and the number before the first."""
        for topic, position in self.positions.items():
            position.repair_from = repairs.get(topic)
            position.repair_at = now

    def received(self, position: Position, run: Run) -> None:
        """Note that an item of a catch-up was received."""
        if run.reported:
            self.items += 1
            self.progress = Progress(
                catchup_id=run.catchup_id, entity=position.entity, received=run.received
            )

    def ended(self, end: CatchupEnd, now: int) -> Proof | None:
        """Note the end of a catch-up; return the proof if all its items were applied."""
        position = self.position_of(end.entity)
        run = position.run
        proof = position.end(end, now)
        if proof is None and run is not None and run.is_contradicted_by(end):
            position.go_back(run.start)
            self._derive_again()
        if proof is not None:
            self.history.caught_up(position.entity, position.seq, end.total, now)
        return proof

    def session_lost(self) -> None:
        """Request what was published meanwhile: the broker has kept nothing for us."""
        for position in self.positions.values():
            if position.need is Need.NOTHING:
                position.need = Need.CHANGES
            if position.request is not None and position.request.begun:
                position.request = None  # the rest of its answer is lost
            self.changed = True

    def look_for_lost_tail(self, now: int, grace: float) -> None:
        """Request changes that are included in the vessel's last heads but have not arrived in time.

        :param grace: seconds that they have.
        """
        if self.heads is None or now - self.heads_at < grace * 1000:
            return
        request_tails(self, self.heads, now)
        self.heads = None

    def retract(self, position: Position, high_seq: int | None = None) -> None:
        """Reset a topic to its proved number, and everything that was derived from its position."""
        position.retract(high_seq)
        self._derive_again()

    def _derive_again(self) -> None:
        """Reset what was derived from a position that was reset."""
        self.seq = min([self.seq, *(one.seq for one in self.positions.values())])
        self.above.clear()
        self.heads = None
        # Rows may have been written that the vessel does not have.
        self.audit = None

    def settle(self) -> None:
        """Raise the watermark as far as the applied changes allow."""
        if self.positions:
            self.seq = max(self.seq, min(position.seq for position in self.positions.values()))
        if not any(position.is_empty for position in self.positions.values()):
            self.seq = self.above.follow(self.seq)

    def told(self, heads: Heads) -> None:
        """Note each topic's head at one number: a topic at its head has no other changes up to that number."""
        self.settle()
        if heads.epoch != self.epoch:
            return
        self.head = max(self.head, heads.seq)
        for topic, position in self.positions.items():
            if self.reached(position) >= heads.topics.get(topic, 0) and not position.is_empty:
                position.reach(heads.seq)
        self.settle()

    def reached(self, position: Position) -> int:
        """Return the number up to which a topic is applied."""
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
        """Reset the numbers for a new epoch."""
        others = [one for one in self.past if one != epoch]
        self.past = [*others, self.epoch][-MAX_PAST:]
        self.epoch = epoch
        self.seq = self.head = self.confirmed = 0
        self.ahead_of = self.heads = self.audit = None
        self.above.clear()
        self.unread.clear()
        self.history.new_epoch()
        self.changed = True
        for position in self.positions.values():
            position.forget()

    @property
    def is_draining(self) -> bool:
        """Whether it had changes to send by its last status."""
        return bool(self.online and self.pending)

    @property
    def is_sweeping(self) -> bool:
        """Whether rows wait for a digest before they are deleted, and none has disagreed."""
        return any(one.sweep and not one.sweep.disputed for one in self.positions.values())

    @property
    def caught_up(self) -> bool:
        """Whether nothing is known to be missing."""
        return not any(position.wants for position in self.positions.values())


def request_tails(vessel: VesselState, heads: Heads, now: int) -> None:
    """Request changes that are included in heads, where nothing is known to be missing.

    :param now: milliseconds since the epoch.
    """
    for position in vessel.behind(heads):
        if position.need is Need.NOTHING and not position.is_repaired(now):
            position.need = Need.CHANGES
            vessel.changed = True
