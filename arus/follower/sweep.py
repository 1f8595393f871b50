"""Deletes the rows that a complete snapshot did not contain.

A sweep of many rows waits until a digest of the vessel agrees with what would be left: an answer that is wrong or
forged must not empty a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from arus.logs import get_logger
from arus.protocol.digests import BUCKETS, SetDigest, row_token
from arus.protocol.messages import Digest, EntityDigest
from arus.protocol.times import now_ms

from .audits.fields import common_fields, usable
from .audits.ledger import Ledger
from .outcome import SWEPT, Outcome
from .position import Need, Position
from .records import RowRecords
from .rows import Copy
from .runs import Proof, Sweep
from .store import Store, Unseen
from .vessels import VesselState
from .writer import RowWriter

logger = get_logger(__name__)

#: The part of a vessel's rows of an entity that is swept without a digest, until the copy is proved equal again.
FEW_PART = 10


class Sweeper:
    """Sweeps a vessel's tables.

    :param ledger: has the digests of the copy.
    """

    def __init__(
        self,
        store: Store,
        copies: Mapping[str, Copy],
        records: RowRecords,
        writer: RowWriter,
        outcome: Outcome,
        ledger: Ledger,
    ) -> None:
        self._store = store
        self._copies = copies
        self._records = records
        self._writer = writer
        self._outcome = outcome
        self._ledger = ledger

    def ended(self, vessel: VesselState, position: Position, proof: Proof) -> None:
        """Delete the rows that a snapshot did not contain, or have them wait for a digest."""
        vessel_id, entity = vessel.vessel_id, position.entity
        unseen = Unseen(proof.high_seq, proof.sweep, _buckets(proof.buckets))
        rows = self._store.count_unseen(vessel_id, entity, unseen)
        few = self._store.count_rows(vessel_id, entity) // FEW_PART
        repairs = proof.buckets is not None
        if not rows or rows + position.swept <= few:
            position.swept += rows
            self._sweep(vessel, position, unseen, repairs=repairs)
            return
        position.sweep = Sweep(proof.high_seq, proof.sweep, proof.buckets, rows, repairs)
        self._ledger.open(vessel_id, entity)  # so that it reaches back to the digest
        logger.warning(
            "[MQTT Reliable Sync] %d rows of %s of %s are not in its snapshot: they are deleted only if a digest"
            " of the vessel agrees",
            rows,
            entity,
            vessel_id,
        )

    def compare(self, vessel: VesselState, digest: Digest) -> bool:
        """Delete waiting rows where a digest agrees with what would be left; return whether rows were deleted."""
        swept = False
        if not vessel.is_draining and vessel.behind(digest.heads):
            # Its last changes may be lost, and the sweep waits for them.
            vessel.heads, vessel.heads_at = digest.heads, now_ms()
        for position in vessel.positions.values():
            told, sweep = digest.entities.get(position.entity), position.sweep
            if sweep is None:
                continue
            if told is not None:
                swept |= self._compare(vessel, position, sweep, digest.seq, told)
            elif digest.seq >= sweep.high_seq:
                self._absent(vessel.vessel_id, position)
        return swept

    def _absent(self, vessel_id: str, position: Position) -> None:
        """End a sweep of an entity that the vessel does not have any more: no digest will ever decide on it."""
        logger.error(
            "[MQTT Reliable Sync] %s of %s is not swept: the vessel has no entity %s any more",
            position.entity,
            vessel_id,
            position.entity,
        )
        position.sweep = None

    def _compare(
        self, vessel: VesselState, position: Position, sweep: Sweep, seq: int, told: EntityDigest
    ) -> bool:
        running = position.run is not None and position.run.useful
        if position.wants is not Need.NOTHING or running or len(told.buckets) != BUCKETS:
            return False
        if seq < sweep.high_seq or vessel.reached(position) < told.last_seq:
            return False
        vessel_id, entity = vessel.vessel_id, position.entity
        comparable = usable(self._copies[entity], told)
        if comparable is None:
            sweep.fields = common_fields(self._copies[entity], told)
            return False
        left = self._ledger.at(vessel_id, entity, seq)
        if left is None:
            return False
        unseen = Unseen(sweep.high_seq, sweep.mark, _buckets(sweep.buckets))
        before = left.buckets
        concerned = self._remove(left, vessel_id, entity, unseen)
        after = left.buckets
        agreed = [number for number in concerned if after[number] == comparable.buckets[number]]
        if agreed:
            these = unseen._replace(buckets=agreed)
            self._sweep(vessel, position, these, repairs=sweep.repairs)
        # Rows of an agreed bucket that can't be deleted now are held.
        stay = [number for number in concerned if before[number] == comparable.buckets[number]]
        staying = unseen._replace(buckets=stay)
        if self._said(position, staying, vessel_id, seq, "contains them: they stay"):
            self._outcome.doubted.append((vessel_id, entity))  # the answer to the repair was wrong
        rest = sorted(concerned.difference(agreed, stay))
        unseen = unseen._replace(buckets=rest)
        why = "does not agree with what would be left: they are not deleted"
        sweep.rows = self._said(position, unseen, vessel_id, seq, "" if sweep.disputed else why)
        sweep.buckets, sweep.disputed = tuple(rest), bool(rest)
        if not rest:
            position.sweep = None
        return bool(agreed)

    def _said(self, position: Position, unseen: Unseen, vessel_id: str, seq: int, what: str) -> int:
        """Log what a digest says of rows that were not in a snapshot; return how many there are."""
        rows = self._store.count_unseen(vessel_id, position.entity, unseen) if unseen.buckets else 0
        if rows and what:
            logger.error(
                "[MQTT Reliable Sync] %d rows of %s of %s are not in its snapshot, but its digest at seq %d %s",
                rows,
                position.entity,
                vessel_id,
                seq,
                what,
            )
        return rows

    def _remove(self, left: SetDigest, vessel_id: str, entity: str, unseen: Unseen) -> set[int]:
        """Take the rows that wait out of a digest; return their buckets."""
        concerned = set()
        for page in self._store.unseen(vessel_id, entity, unseen):
            for row in page:
                left.toggle(row.bucket, row_token(row.row_id, row.version, row.hash), -1)
                concerned.add(row.bucket)
        return concerned

    def _sweep(
        self, vessel: VesselState, position: Position, unseen: Unseen, *, repairs: bool
    ) -> None:
        """Delete the rows of a vessel's table that a snapshot did not contain.

        :param repairs: the snapshot repairs rows that an audit found to differ.
        """
        vessel_id, entity = vessel.vessel_id, position.entity
        copy = self._copies[entity]
        swept = 0
        for page in self._store.unseen(vessel_id, entity, unseen):
            row_ids = [row.row_id for row in page]
            theirs = self._of_others(vessel_id, entity, row_ids)
            mine = [row_id for row_id in row_ids if row_id not in theirs]
            gone = self._writer.delete(vessel, copy, mine, unseen.mark)
            self._records.bury(vessel_id, entity, [*gone, *theirs])
            if repairs:
                self._outcome.repaired += [(vessel_id, entity, row_id) for row_id in gone]
            swept += len(gone)
        if len(unseen.buckets) == BUCKETS:
            self._store.held.let_go(vessel_id, entity, unseen.high_seq, unseen.mark)
        if swept:
            self._outcome.count(SWEPT, entity, amount=swept)
            self._outcome.rows += swept
        self._records.forget_entity(vessel_id, entity)

    def _of_others(self, vessel_id: str, entity: str, row_ids: Iterable[str]) -> set[str]:
        """Return the rows that another vessel owns: only this vessel's records of them may be deleted."""
        return {
            row_id
            for holder, row_id, known in self._store.claims(entity, list(row_ids))
            if (known.owner and holder == vessel_id)
            or (known.is_own and not known.deleted and holder != vessel_id)
        }


def _buckets(buckets: tuple[int, ...] | None) -> list[int]:
    return list(range(BUCKETS)) if buckets is None else list(buckets)
