"""The messages of one transaction: their vessels and epochs, and their effect on rows and positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from arus.logs import get_logger
from arus.protocol.catchups import link_of
from arus.protocol.messages import CatchupBegin, CatchupEnd, Digest, Numbered, Status
from arus.protocol.times import now_ms

from .arrivals import note_arrived, note_begun
from .audits.ledger import Ledger
from .circles import MOST, HeldRows
from .known_vessels import KnownVessels
from .messages import Change, Message, Unreadable
from .outcome import (
    CATCHUPS,
    DOUBTED,
    EPOCHS,
    GAPS,
    LATE,
    REPEATED,
    UNREQUESTED,
    Outcome,
)
from .position import Need, Position
from .records import RowRecords
from .row_changes import RowChanges, key_of
from .rows import Copy
from .store import Store
from .sweep import Sweeper
from .unread import note_unread, pass_unread
from .vessels import VesselState
from .writer import RowWriter

logger = get_logger(__name__)


class Batch:
    """Processes messages in their order; the result is in `outcome`.

    :param name: the follower's.
    """

    def __init__(
        self,
        store: Store,
        copies: Mapping[str, Copy],
        vessels: dict[str, VesselState],
        known: KnownVessels,
        ledger: Ledger,
        siblings: Mapping[str, Sequence[str]],
        *,
        name: str,
    ) -> None:
        self._store = store
        self._name = name
        self._vessels = vessels
        self._known = known
        self._now = now_ms()
        self.outcome = Outcome()
        self.records = RowRecords(store, ledger, siblings)
        self._writer = RowWriter(store, copies, self.records, self.outcome)
        self._refusals = store.refusals
        self._rows = RowChanges(copies, vessels, self.records, self._writer, self.outcome)
        self._held = HeldRows(store, copies, self.records, self._rows, self._writer)
        self._sweeper = Sweeper(store, copies, self.records, self._writer, self.outcome, ledger)

    def run(self, messages: list[tuple[Message, bool]]) -> None:
        """Process messages, each with whether the broker had retained it."""
        self.records.fetch(message for message, _ in messages)
        for at, (message, retained) in enumerate(messages):
            forgotten = len(self.outcome.forgotten)
            vessel = self._vessel_of(message, retained=retained)
            if len(self.outcome.forgotten) > forgotten:
                # Rows of the vessels that are forgotten may be those of others now.
                self.records.fetch(later for later, _ in messages[at:])
            if vessel is None:
                continue
            vessel.changed = True
            vessel.heard_at = self._now
            vessel.history.heard(message, vessel.online, self._now, retained=retained)
            if self._take(vessel, message, retained=retained):
                # A sweep changes the records of many rows.
                self.records.fetch(later for later, _ in messages[at + 1 :])
        self._writer.flush()
        self._held.close_circles(MOST)
        self._log()

    def retry(self, most: int) -> None:
        """Try held changes that are due, and those that become due by it, `most` by and large."""
        self._held.retry(most)
        self._log()

    def _log(self) -> None:
        self._writer.log_held()
        self._rows.log_foreign()

    def _take(self, vessel: VesselState, message: Message, *, retained: bool) -> bool:
        """Process a message of a known vessel; return whether rows were swept."""
        match message:
            case Change(catchup_id=None):
                self._live(vessel, message, retained=retained)
            case Change():
                self._item(vessel, message)
            case CatchupBegin():
                self._begin(vessel, message)
            case CatchupEnd():
                return self._end(vessel, message)
            case Status():
                self._status(vessel, message, retained=retained)
            case Digest():
                return self._digest(vessel, message, retained=retained)
            case Unreadable():
                note_unread(vessel, message.topic, retained=retained)
            case Numbered():
                if vessel.is_credible(message.seq):
                    vessel.counted(message.seq)
        return False

    def _vessel_of(self, message: Message, *, retained: bool) -> VesselState | None:
        """Return the message's vessel; None if the message is ignored."""
        vessel = self._vessels.get(message.vessel_id)
        epoch = message.epoch
        if vessel is None:
            if epoch is None or _is_of_catchup(message) or self._is_over(message):
                self.outcome.count(LATE)
                return None
            return self._new_vessel(message.vessel_id, epoch)
        elif epoch is not None and epoch != vessel.epoch:
            if not _tells_epoch(message, vessel):
                self.outcome.count(LATE)
                if isinstance(message, Status) and message.online and not retained:
                    vessel.check_epoch(self._now)
                return None
            self._begin_epoch(vessel, epoch)
        return vessel

    def _is_over(self, message: Message) -> bool:
        """Whether a message is of a vessel that has handed its rows over, and is not online again."""
        is_back = isinstance(message, Status) and message.online
        return message.vessel_id in self._store.retired and not is_back

    def _new_vessel(self, vessel_id: str, epoch: str) -> VesselState | None:
        before = len(self.outcome.forgotten)
        if self._known.is_full:
            self._writer.flush()  # the rows of vessels that are forgotten now
        vessel = self._known.add(vessel_id, epoch, self.outcome)
        for forgotten in self.outcome.forgotten[before:]:
            self.records.forget_vessel(forgotten)
        return vessel

    def _begin_epoch(self, vessel: VesselState, epoch: str) -> None:
        self._writer.flush()
        logger.warning(
            "[MQTT Reliable Sync] vessel %s has begun a new epoch: fetching all its rows again",
            vessel.vessel_id,
            extra={"epoch": epoch},
        )
        self.records.forget_versions(vessel.vessel_id)
        vessel.begin_epoch(epoch)
        self.outcome.count(EPOCHS)

    def _live(self, vessel: VesselState, change: Change, *, retained: bool) -> None:
        position = vessel.positions[change.topic]
        if change.seq <= vessel.reached(position):
            # It was applied before: a late repeat must not restore a swept row. A retained one may be of any age.
            if change.fault and not self._refusals.covers(change):
                self.outcome.refuse_change(change, change.fault)
                return
            unknown = not retained and self._is_unknown(change)
            if change.seq <= position.proven or not unknown:
                self.outcome.repeated(vessel.vessel_id, change, questioned=unknown)
                return
            # It was not received before, so the position has passed a change that never arrived.
            self._doubt(vessel, position, f"change {change.seq} had not arrived")
        elif not vessel.is_credible(change.seq):
            self._ask_instead(vessel, position, change)
            return
        self._rows.take(change, None)
        pass_unread(vessel, position, change.previous_seq)
        was_whole = position.wants is Need.NOTHING
        if position.applied(change.previous_seq, change.seq, vessel.seq) and was_whole:
            position.pause(self._now)  # it may be one that the vessel is about to repair
            self.outcome.count(GAPS, change.entity)
            logger.info(
                "[MQTT Reliable Sync] a gap in %s of %s: %d to %d",
                change.topic,
                change.vessel_id,
                position.seq,
                change.previous_seq,
            )
        vessel.counted(change.seq)
        if position.need is Need.EVERYTHING:
            vessel.join()
        vessel.changed_at = change.at

    def _is_unknown(self, change: Change) -> bool:
        known = self.records.get(key_of(change))
        is_later = known is None or change.version > known.version
        return is_later and not self._refusals.covers(change)

    def _ask_instead(self, vessel: VesselState, position: Position, change: Change) -> None:
        """Request changes from the vessel instead of applying one that is far above all known numbers."""
        self.outcome.count(DOUBTED, change.entity)
        if position.need is Need.NOTHING:
            position.need = Need.CHANGES
            logger.warning(
                "[MQTT Reliable Sync] change %d of %s of %s is not applied: the vessel's last known number is %d;"
                " asking the vessel",
                change.seq,
                position.entity,
                vessel.vessel_id,
                vessel.head,
            )

    def _doubt(
        self, vessel: VesselState, position: Position, why: str, high_seq: int | None = None
    ) -> None:
        """Reset a position to its proved number, and request the rest again."""
        self.outcome.count(DOUBTED, position.entity)
        reached = vessel.reached(position)
        vessel.retract(position, high_seq)
        logger.warning(
            "[MQTT Reliable Sync] %s of %s was not applied up to %d: %s; continuing from %d",
            position.entity,
            vessel.vessel_id,
            reached,
            why,
            vessel.reached(position),
        )

    def _begin(self, vessel: VesselState, begin: CatchupBegin) -> None:
        position = note_begun(self.outcome, vessel, begin)
        if vessel.disproves(begin):
            if vessel.claims(begin.high_seq, self._now):
                # It was restored from an older copy: its new epoch is waited for.
                position.fail(self._now)
                self._claimed(vessel, begin.high_seq)
                return
            # Rows written with numbers that were never assigned must not survive the next sweep.
            self._writer.flush()
            self.records.forget_numbers(vessel.vessel_id, position.entity, begin.high_seq)
            why = f"the vessel's last number is {begin.high_seq}"
            self._doubt(vessel, position, why, begin.high_seq)
        vessel.begun(begin, self._now, self._name)

    def _claimed(self, vessel: VesselState, head: int) -> None:
        """Publish the watermark of a vessel that has proved more than the vessel has now: it proves a restore."""
        self.outcome.arrived.append(vessel)
        if vessel.ahead_of is None:
            logger.error(
                "[MQTT Reliable Sync] %s reports %d as its last number, but everything up to %d is applied and"
                " proved here: its database was restored from an older copy, or the message is forged",
                vessel.vessel_id,
                head,
                vessel.seq,
            )
        vessel.ahead_of = head

    def _item(self, vessel: VesselState, change: Change) -> None:
        position = vessel.positions[change.topic]
        link = link_of(change.entity, change.row_id, change.version, change.operation)
        assert change.catchup_id is not None
        run = position.item(change.catchup_id, change.sequence, link, self._now)
        if run is not None:
            if not change.row_id:
                run.unidentified(link)
            vessel.received(position, run)
        if run is None or not run.takes(change.seq):
            self.outcome.count(UNREQUESTED, change.entity)
            return
        if change.seq > run.high_seq if run.useful else not vessel.is_credible(change.seq):
            # No item of a catch-up has a number above the catch-up's own head.
            self.outcome.count(DOUBTED, change.entity)
            return
        if run.mode != "snapshot" and change.seq <= vessel.reached(position):
            if run.asked or change.seq <= position.proven or not self._is_unknown(change):
                self.outcome.count(REPEATED, change.entity)
                return
            self._doubt(vessel, position, f"change {change.seq} had not arrived")
        self._rows.take(change, run, mark=run.mark)
        # The seq of a snapshot's row is the log's head, not the number of a change.
        if run.useful and run.mode == "log":
            vessel.counted(change.seq)
            position.advance(run, change.sequence, change.seq)

    def _end(self, vessel: VesselState, end: CatchupEnd) -> bool:
        """Process the end of a catch-up; return whether rows were swept."""
        position = vessel.position_of(end.entity)
        proof = vessel.ended(end, self._now)
        if proof is None:
            return False
        self.outcome.count(CATCHUPS, position.entity)
        vessel.is_proven = True
        note_arrived(self._refusals, self.outcome, vessel, position, proof)
        if proof.sweep:
            self._writer.flush()
            self._sweeper.ended(vessel, position, proof)
        logger.info(
            "[MQTT Reliable Sync] caught up with %s of %s: %d items, up to %d",
            position.entity,
            vessel.vessel_id,
            end.total,
            position.seq,
        )
        return bool(proof.sweep)

    def _digest(self, vessel: VesselState, digest: Digest, *, retained: bool) -> bool:
        """Process a digest; return whether rows were swept."""
        vessel.told(digest.heads)
        self.outcome.digests.append(digest)
        if retained or not any(position.sweep for position in vessel.positions.values()):
            return False
        self._writer.flush()
        return self._sweeper.compare(vessel, digest)

    def _status(self, vessel: VesselState, status: Status, *, retained: bool) -> None:
        if status.online and vessel.online is not True:
            # The pauses of open requests are not restarted here; an old request is soon repeated with its own id.
            # If they were restarted, a lost request to a vessel that is often offline would never be repeated.
            self.outcome.arrived.append(vessel)
        vessel.reported(status, self._now, retained=retained)
        seq = status.seq or 0
        if status.online and status.epoch is not None and not retained:
            if vessel.claims(seq, self._now):
                self._claimed(vessel, seq)
            vessel.announced(seq)
            vessel.announced_repairs(status.repairs or {}, self._now)
        else:  # a last will and a retained status may be old
            if retained and status.online and seq >= vessel.head:  # or the subscription was renewed
                vessel.announced_repairs(status.repairs or {}, self._now)
            vessel.head = max(vessel.head, seq)
        vessel.heads = None
        if (heads := status.heads) is not None:
            vessel.told(heads)
            if status.pending == 0:
                vessel.heads, vessel.heads_at = heads, self._now


def _tells_epoch(message: Message, vessel: VesselState) -> bool:
    """Return whether a message of another epoch begins that epoch; other messages of another epoch are late.

    Only a status that says `online` begins a new epoch; if none was received before, any status does. An epoch that
    has ended is not begun again by a status, which may be an old one: the answer to a request of ours is needed, which
    is newer than the request.
    """
    if isinstance(message, Status):
        return message.epoch not in vessel.past and (message.online or vessel.online is None)
    return (
        isinstance(message, CatchupBegin)
        and message.epoch in vessel.past
        and vessel.position_of(message.entity).is_mine(message.request_id)
    )


def _is_of_catchup(message: Message) -> bool:
    """Whether a message is a part of a catch-up: nothing was requested of a vessel that is not known."""
    if isinstance(message, Change):
        return message.catchup_id is not None
    return isinstance(message, CatchupBegin | CatchupEnd)
