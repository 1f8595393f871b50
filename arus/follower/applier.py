"""Applies what has arrived: rows, what is known of them, and positions, in one transaction for many messages."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, StatementError

from arus.counters import CounterKey, add_to_counters
from arus.database import transaction
from arus.digest import bucket_of, row_hash
from arus.errors import RefusedMessageError
from arus.message import Operation, now_ms

from .audit import Ledger
from .inbound import Begin, Change, Digest, End, Heads, Message, Numbered, Reader, Status
from .position import Need, Position, Proof, Run, VesselState, is_news, link_of
from .proposals import answered
from .rows import Copy
from .store import Held, Known, Store

logger = logging.getLogger(__name__)

#: Vessels that are followed at most: each name that comes in costs room.
MAX_VESSELS = 1000

APPLIED = "follow_applied"
REPEATED = "follow_repeated"
REFUSED = "follow_refused"
LATE = "follow_late"
HELD = "follow_held"
GAPS = "follow_gaps"
SWEPT = "follow_swept"
REQUESTS = "follow_requests"
CATCHUPS = "follow_catchups"
EPOCHS = "follow_epochs"
DOUBTED = "follow_doubted"
FOREIGN = "follow_foreign"

#: Refused messages about other vessels' rows that are kept of one vessel, by one process.
MAX_FOREIGN_KEPT = 100

#: What the database raises at a row that it will never take.
_IMPOSSIBLE = (DataError, InterfaceError, OverflowError, StatementError)

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message as it came."""

    topic: str
    payload: bytes
    #: It was kept by the broker, from whenever it was published.
    retain: bool


@dataclass(slots=True)
class Applied:
    """What a batch has come to."""

    #: Rows written or deleted.
    rows: int = 0
    #: Digests that were in it.
    digests: list[Digest] = field(default_factory=list)
    #: Vessels that have just come online.
    arrived: list[VesselState] = field(default_factory=list)
    #: Rows that the repair of what an audit found has changed: vessel, entity, row id.
    repaired: list[tuple[str, str, str]] = field(default_factory=list)


class Applier:
    """Applies messages to the application's tables.

    :param connection: of `arus.database.open_engine`, used by this thread alone.
    :param copies: the tables, by entity.
    :param label: what stands for the follower in the list of parked messages.
    :param ledger: is told what is learnt of each row.
    """

    def __init__(
        self,
        connection: Connection,
        store: Store,
        copies: Mapping[str, Copy],
        reader: Reader,
        label: str,
        ledger: Ledger,
    ) -> None:
        self._connection = connection
        self._ledger = ledger
        self._store = store
        self._copies = copies
        self._reader = reader
        self._label = label
        self.vessels: dict[str, VesselState] = store.load()
        #: Changes that the database does not take yet.
        self.held = store.count_held()
        self._unchecked = _takes_unchecked(connection)

    def apply(self, messages: Sequence[Inbound]) -> Applied:
        """Apply messages in their order, in one transaction.

        After an error what is known here is not what is saved: begin with a new applier.

        :raises LogUnavailableError: the database refused; nothing was applied.
        """
        with transaction(self._connection):
            self.unchecked()
            batch = _Batch(
                self._store, self._copies, self.vessels, self._ledger, held=self.held > 0
            )
            batch.run(self._read(messages, batch))
            self._save(batch)
        self.held = self._store.count_held() if self.held or batch.holds else 0
        return batch.result

    def retry_held(self) -> int:
        """Try held changes again; return how many were taken."""
        taken = 0
        with transaction(self._connection):
            self.unchecked()
            progress = True
            while progress:
                progress, offset = False, 0
                while page := self._store.held(200, offset):
                    batch = _Batch(self._store, self._copies, self.vessels, self._ledger, held=True)
                    done = batch.retry(page)
                    add_to_counters(self._connection, batch.counters)
                    taken += done
                    offset += len(page) - done
                    progress = progress or done > 0
        self.held = self._store.count_held()
        return taken

    def save(self, counters: Mapping[CounterKey, int]) -> None:
        """Save vessels that have changed, and count."""
        with transaction(self._connection):
            self._save_vessels()
            add_to_counters(self._connection, counters)

    def unchecked(self) -> None:
        """Have PostgreSQL check no references in this transaction, where it lets us.

        A copy's rows come topic by topic, so that a reference may come before what it refers to; the
        vessel has checked it. (SQLite checks none on a connection that does not ask for it.)
        """
        if self._unchecked:
            self._connection.exec_driver_sql("SET LOCAL session_replication_role = replica")

    def _read(self, messages: Sequence[Inbound], batch: _Batch) -> list[tuple[Message, bool]]:
        read = []
        for message in messages:
            try:
                read.append((self._reader.read(message.topic, message.payload), message.retain))
                batch.sources[id(read[-1][0])] = message
            except RefusedMessageError as error:
                batch.refuse(message, str(error))
            except Exception as error:  # a fault in reading must cost a message, not all behind it
                logger.exception("[MQTT Reliable Sync] a message can't be read")
                batch.refuse(message, f"{type(error).__name__}: {error}")
        return read

    def _save(self, batch: _Batch) -> None:
        for vessel in self.vessels.values():
            if vessel.changed:
                vessel.settle()
        self._save_vessels()
        self._store.park(self._label, batch.refused)
        add_to_counters(self._connection, batch.counters)

    def _save_vessels(self) -> None:
        for vessel in self.vessels.values():
            if vessel.changed:
                self._store.save(vessel)
                vessel.changed = False


def _takes_unchecked(connection: Connection) -> bool:
    if connection.dialect.name != "postgresql":
        return False
    try:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
    except DBAPIError:
        return False  # it takes a right that this role has not: what comes too early is held
    finally:
        connection.exec_driver_sql("ROLLBACK")
    return True


class _Batch:
    """The messages of one transaction."""

    def __init__(
        self,
        store: Store,
        copies: Mapping[str, Copy],
        vessels: dict[str, VesselState],
        ledger: Ledger,
        *,
        held: bool,
    ) -> None:
        self._store = store
        self._copies = copies
        self._vessels = vessels
        self._ledger = ledger
        self._held = held
        self._now = now_ms()
        self.result = Applied()
        self.counters: Counter[CounterKey] = Counter()
        self.refused: list[tuple[str, bytes, str]] = []
        #: Messages by the identity of what was read from them: to be parked when their row won't do.
        self.sources: dict[int, Inbound] = {}
        self.holds = False
        self._known: dict[_Key, Known] = {}
        # The vessel that each row, by entity and id, belongs to; of rows that are spoken of.
        self._owners: dict[tuple[str, str], str] = {}
        # Refused for another vessel's sake: how many, and the first of them, by vessel, entity and owner.
        self._foreign: dict[_Key, tuple[int, str]] = {}
        # What is not written yet: rows, what is known of them, and what was known before.
        self._effects: dict[_Key, tuple[Change, dict[str, Any] | None]] = {}
        self._changed: dict[_Key, Known] = {}
        self._before: dict[_Key, Known | None] = {}

    def run(self, messages: list[tuple[Message, bool]]) -> None:
        self._fetch(message for message, _ in messages)
        for at, (message, retained) in enumerate(messages):
            vessel = self._vessel_of(message)
            if vessel is None:
                continue
            vessel.changed = True
            vessel.heard_at = self._now
            match message:
                case Change(catchup_id=None):
                    self._live(vessel, message, retained=retained)
                case Change():
                    self._item(vessel, message)
                case Begin():
                    self._begin(vessel, message)
                case End():
                    if self._end(vessel, message):
                        self._fetch(later for later, _ in messages[at + 1 :])
                case Status():
                    self._status(vessel, message, retained=retained)
                case Digest():
                    self._heads(vessel, message.heads)
                    self.result.digests.append(message)
                case Numbered():
                    if vessel.is_credible(message.seq):
                        vessel.counted(message.seq)
        self._flush()
        self._log_foreign()

    def retry(self, page: Iterable[Held]) -> int:
        """Try held changes once more; return how many are held no longer."""
        changes = [(held, _change_of(held)) for held in page]
        self._fetch(change for _, change in changes)
        done = 0
        for held, change in changes:
            key = (change.vessel_id, change.entity, change.row_id)
            known = self._known.get(key)
            if known is not None and known.version >= change.version:
                self._store.release({key: known.version})
                done += 1
                continue
            self._row(change, None, mark=held.mark)
            refused = key in self._changed and self._changed[key].owner
            if refused or (key in self._effects and self._one(key)):
                done += 1
        self._write_known()
        self._log_foreign()
        return done

    def refuse(self, message: Inbound, reason: str) -> None:
        self.counters[REFUSED, "", "", ""] += 1
        self.refused.append((message.topic, message.payload, reason))
        logger.warning(
            "[MQTT Reliable Sync] refused a message on %s: %s", message.topic[:200], reason[:200]
        )

    # -- whose it is, and of which epoch --------------------------------------------------------------

    def _fetch(self, messages: Iterable[Message]) -> None:
        """Read what is known of all rows that are spoken of."""
        wanted: dict[str, set[str]] = defaultdict(set)
        for message in messages:
            if isinstance(message, Change):
                wanted[message.entity].add(message.row_id)
        for entity, row_ids in wanted.items():
            for vessel_id, row_id, known in self._store.claims(entity, row_ids):
                self._known[vessel_id, entity, row_id] = known
                if known.is_own:
                    self._owners.setdefault((entity, row_id), vessel_id)

    def _owner_of(self, key: _Key) -> str:
        """Return the other vessel that a row belongs to; empty where it is the vessel's own, or nobody's."""
        owner = self._owners.get(key[1:], "")
        return "" if owner == key[0] else owner

    def _vessel_of(self, message: Message) -> VesselState | None:
        """Return the message's vessel; None where the message does not count."""
        vessel = self._vessels.get(message.vessel_id)
        epoch = message.epoch
        if vessel is None:
            if epoch is None or len(self._vessels) >= MAX_VESSELS:
                self.counters[LATE, "", "", ""] += 1
                return None
            vessel = self._store.new_vessel(message.vessel_id, epoch)
            self._vessels[message.vessel_id] = vessel
            logger.info("[MQTT Reliable Sync] following vessel %s", message.vessel_id)
        elif epoch is not None and epoch != vessel.epoch:
            if not _tells_epoch(message, vessel):
                self.counters[LATE, "", "", ""] += 1
                return None
            self._begin_epoch(vessel, epoch)
        return vessel

    def _begin_epoch(self, vessel: VesselState, epoch: str) -> None:
        self._flush()
        logger.warning(
            "[MQTT Reliable Sync] vessel %s has begun a new epoch: all of it is fetched anew",
            vessel.vessel_id,
            extra={"epoch": epoch},
        )
        self._store.forget_epoch(vessel.vessel_id)
        self._ledger.forget(vessel.vessel_id)
        vessel.begin_epoch(epoch)
        self.counters[EPOCHS, "", "", ""] += 1
        for key, known in list(self._known.items()):
            if key[0] != vessel.vessel_id:
                continue
            if known.version > 0:
                self._known[key] = replace(known, version=0, seq=0)

    # -- each kind of message -------------------------------------------------------------------------

    def _live(self, vessel: VesselState, change: Change, *, retained: bool) -> None:
        position = vessel.positions[change.topic]
        if change.seq <= vessel.reached(position):
            # What is up to the position is here, or was: a late repeat must not bring a swept row back.
            # What the broker has kept is of whenever.
            if retained or change.seq <= position.proven or not self._is_unknown(change):
                self.counters[REPEATED, change.entity, "", ""] += 1
                return
            # It has not come before, so that the position has passed what never came.
            self._doubt(vessel, position, f"change {change.seq} had not come")
        elif not vessel.is_credible(change.seq):
            self._ask_instead(vessel, position, change)
            return
        self._row(change, None)
        was_whole = position.wants is Need.NOTHING
        if position.applied(change.previous_seq, change.seq, vessel.seq) and was_whole:
            self.counters[GAPS, change.entity, "", ""] += 1
            logger.info(
                "[MQTT Reliable Sync] a gap in %s of %s: %d to %d",
                change.topic,
                change.vessel_id,
                position.seq,
                change.previous_seq,
            )
        vessel.counted(change.seq)
        vessel.changed_at = change.at

    def _is_unknown(self, change: Change) -> bool:
        known = self._known.get((change.vessel_id, change.entity, change.row_id))
        return known is None or change.version > known.version

    def _ask_instead(self, vessel: VesselState, position: Position, change: Change) -> None:
        """Have the vessel say itself what a change far ahead of all that is known of it says."""
        self.counters[DOUBTED, change.entity, "", ""] += 1
        if position.need is Need.NOTHING:
            position.need = Need.CHANGES
            logger.warning(
                "[MQTT Reliable Sync] change %d of %s of %s is not applied: the vessel is known up to %d;"
                " it is asked",
                change.seq,
                position.entity,
                vessel.vessel_id,
                vessel.head,
            )

    def _doubt(
        self, vessel: VesselState, position: Position, why: str, high_seq: int | None = None
    ) -> None:
        """Take a position back to what was proved, and have the rest fetched again."""
        self.counters[DOUBTED, position.entity, "", ""] += 1
        reached = vessel.reached(position)
        vessel.retract(position, high_seq)
        logger.warning(
            "[MQTT Reliable Sync] %s of %s was not applied up to %d: %s; going on from %d",
            position.entity,
            vessel.vessel_id,
            reached,
            why,
            vessel.reached(position),
        )

    def _begin(self, vessel: VesselState, begin: Begin) -> None:
        position = vessel.positions[begin.topic]
        if vessel.disproves(begin):
            # What was written under numbers that were never given out must not outlive the next sweep.
            self._flush()
            self._store.forget_numbers(vessel.vessel_id, position.entity, begin.high_seq)
            self._ledger.forget(vessel.vessel_id, position.entity)
            for key, known in list(self._known.items()):
                if key[:2] == (vessel.vessel_id, position.entity) and known.seq > begin.high_seq:
                    self._known[key] = replace(known, seq=begin.high_seq)
            why = f"the vessel has come to {begin.high_seq}"
            self._doubt(vessel, position, why, begin.high_seq)
        vessel.begun(begin, self._now)

    def _item(self, vessel: VesselState, change: Change) -> None:
        position = vessel.positions[change.topic]
        link = link_of(change.entity, change.row_id, change.version, change.operation)
        assert change.catchup_id is not None
        run = position.item(change.catchup_id, change.sequence, link, self._now)
        of_snapshot = run is not None and run.mode == "snapshot"
        useful = run is not None and run.useful
        if change.seq > run.high_seq if run and useful else not vessel.is_credible(change.seq):
            # Nothing of a catch-up is above its own head.
            self.counters[DOUBTED, change.entity, "", ""] += 1
            return
        if not of_snapshot and change.seq <= vessel.reached(position):
            self.counters[REPEATED, change.entity, "", ""] += 1
            return
        self._row(change, run, mark=run.mark if run is not None else 0)
        # A row of a snapshot bears the log's head, not a number of its own.
        if run is not None and run.useful and run.mode == "log":
            vessel.counted(change.seq)

    def _end(self, vessel: VesselState, end: End) -> bool:
        """Take a catch-up's end; tell whether rows were swept."""
        position = vessel.positions[end.topic]
        proof = position.end(end, self._now)
        if proof is None:
            return False
        self.counters[CATCHUPS, position.entity, "", ""] += 1
        if proof.sweep:
            self._flush()
            self._sweep(vessel, position, proof)
        logger.info(
            "[MQTT Reliable Sync] caught up with %s of %s: %d items, up to %d",
            position.entity,
            vessel.vessel_id,
            end.total,
            position.seq,
        )
        return bool(proof.sweep)

    def _status(self, vessel: VesselState, status: Status, *, retained: bool) -> None:
        if status.online and vessel.online is not True:
            # A request that is old by now is repeated under its own id first: were its time to begin anew
            # here, one that was lost would never be asked again at a vessel that comes and goes.
            self.result.arrived.append(vessel)
        vessel.online = status.online
        vessel.pending = status.pending
        if status.online and status.epoch is not None and not retained:
            vessel.announced(status.seq)
        else:  # a last will, and what the broker has kept, are of some time ago
            vessel.head = max(vessel.head, status.seq)
        vessel.heads = None
        if status.heads is not None:
            self._heads(vessel, status.heads)
            if status.pending == 0:
                vessel.heads, vessel.heads_at = status.heads, self._now

    def _heads(self, vessel: VesselState, heads: Heads) -> None:
        vessel.settle()
        vessel.told(heads)

    # -- rows -----------------------------------------------------------------------------------------

    def _row(self, change: Change, run: Run | None, *, mark: int = 0) -> None:
        key = (change.vessel_id, change.entity, change.row_id)
        known = self._known.get(key)
        content = ""
        is_delete = change.operation == Operation.DELETE
        try:
            if not is_delete:
                if self._copies[change.entity].is_mere(change.data):
                    raise RefusedMessageError("the vessel can't send this row")
                content = row_hash(change.data)
            news = _is_news(change, run, known, content)
            owner = self._owner_of(key)
            if news and owner:
                self._claim(change, known, content, owner, mark)
                return
            if news:
                copy = self._copies[change.entity]
                values = None if is_delete else copy.values(change.data, change.version)
                copy.check_id(change.data[copy.followed.id_key])
                self._effects[key] = (change, values)
                if _repairs(run) and (
                    known is None or (known.version, known.hash) != (change.version, content)
                ):
                    self.result.repaired.append(key)
                self._learn(
                    key,
                    Known(
                        change.version,
                        max(change.seq, known.seq if known is not None else 0),
                        is_delete,
                        content,
                        bucket_of(change.row_id),
                        mark or (known.mark if known is not None else 0),
                    ),
                )
                return
            self.counters[REPEATED, change.entity, "", ""] += 1
        except (RefusedMessageError, ValueError) as error:
            source = self.sources.get(id(change))
            if source is not None:
                self.refuse(source, str(error))
        if mark and known is not None and known.mark != mark:
            self._learn(key, replace(known, mark=mark))

    def _claim(
        self, change: Change, known: Known | None, content: str, owner: str, mark: int
    ) -> None:
        """Refuse what a vessel says of another vessel's row; what it says is noted, for audits to name it."""
        key = (change.vessel_id, change.entity, change.row_id)
        is_delete = change.operation == Operation.DELETE
        seq = max(change.seq, known.seq if known is not None else 0)
        mark = mark or (known.mark if known is not None else 0)
        bucket = bucket_of(change.row_id)
        self._learn(key, Known(change.version, seq, is_delete, content, bucket, mark, owner))
        self.counters[FOREIGN, change.entity, "", ""] += 1
        self.counters[REFUSED, "", "", ""] += 1
        of = (change.vessel_id, change.entity, owner)
        count, first = self._foreign.get(of, (0, change.row_id))
        self._foreign[of] = (count + 1, first)
        vessel, source = self._vessels[change.vessel_id], self.sources.get(id(change))
        if known is None and source is not None and vessel.foreign_kept < MAX_FOREIGN_KEPT:
            vessel.foreign_kept += 1
            reason = f"the row {change.row_id} of {change.entity} belongs to {owner}"
            self.refused.append((source.topic, source.payload, reason))

    def _log_foreign(self) -> None:
        # One line for many: a vessel that was set up from a copy of another speaks of all its rows.
        for (vessel_id, entity, owner), (count, first) in self._foreign.items():
            logger.error(
                "[MQTT Reliable Sync] refused %d changes by %s of rows of %s that belong to %s: %s%s",
                count,
                vessel_id,
                entity,
                owner,
                first,
                " and others" if count > 1 else "",
            )
        self._foreign.clear()

    def _learn(self, key: _Key, known: Known) -> None:
        before = self._known.get(key)
        self._before.setdefault(key, before)
        self._known[key] = self._changed[key] = known
        if known.is_own:
            self._owners.setdefault(key[1:], key[0])
        self._ledger.learnt(key, before, known, known.seq)

    def _flush(self) -> None:
        """Write what has been collected."""
        if self._effects:
            try:
                with self._store.savepoint():
                    self._write(self._effects)
                self._count(self._effects)
                self._effects.clear()
            except (IntegrityError, *_IMPOSSIBLE) as error:
                if _is_outage(error):
                    raise
                # One of them is the culprit. Deletions first: they may make room.
                for key in sorted(self._effects, key=lambda key: self._effects[key][1] is not None):
                    self._one(key)
        self._write_known()

    def _write_known(self) -> None:
        self._store.save_rows(self._changed)
        answered(self._store.connection, self._changed)
        if self._held or self.holds:
            self._store.release({key: known.version for key, known in self._changed.items()})
        self._changed.clear()
        self._before.clear()

    def _write(self, effects: Mapping[_Key, tuple[Change, dict[str, Any] | None]]) -> None:
        connection = self._store.connection
        upserts: dict[str, list[dict[str, Any]]] = defaultdict(list)
        deletes: dict[str, list[Any]] = defaultdict(list)
        for change, values in effects.values():
            if values is None:
                copy = self._copies[change.entity]
                deletes[change.entity].append(copy.key(change.data[copy.followed.id_key]))
            else:
                upserts[change.entity].append(values)
        for entity, copy in self._copies.items():
            copy.delete(connection, deletes[entity])
        for entity, copy in self._copies.items():
            copy.upsert(connection, upserts[entity])

    def _one(self, key: _Key) -> bool:
        """Write one row; hold it, or park it, where the database does not take it."""
        change, values = self._effects.pop(key)
        try:
            with self._store.savepoint():
                self._write({key: (change, values)})
        except IntegrityError as error:
            known = self._undo(key)
            self._store.hold(change, known, _reason(error))
            self.holds = True
            if not self._held:
                self.counters[HELD, change.entity, "", ""] += 1
                logger.warning(
                    "[MQTT Reliable Sync] %s %s is held: %s",
                    change.entity,
                    change.row_id,
                    _reason(error),
                )
            return False
        except _IMPOSSIBLE as error:
            if _is_outage(error):
                raise
            self._undo(key)
            source = self.sources.get(id(change))
            if source is not None:
                self.refuse(source, _reason(error))
            return False
        self._count({key: (change, values)})
        return True

    def _undo(self, key: _Key) -> int:
        """Forget that a row was written; return the mark that it was to bear."""
        learnt, before = self._changed.pop(key), self._before[key]
        self._ledger.learnt(key, learnt, before, learnt.seq)
        del self._known[key]
        if (before is None or not before.is_own) and self._owners.get(key[1:]) == key[0]:
            del self._owners[key[1:]]
        if before is not None:
            self._known[key] = self._changed[key] = replace(before, mark=learnt.mark)
        return learnt.mark

    def _count(self, effects: Mapping[_Key, tuple[Change, Any]]) -> None:
        for change, _ in effects.values():
            self.counters[APPLIED, change.entity, change.operation, ""] += 1
        self.result.rows += len(effects)

    def _sweep(self, vessel: VesselState, position: Position, proof: Proof) -> None:
        """Delete the rows that a snapshot did not bring."""
        copy = self._copies[position.entity]
        swept = 0
        # A part of the rows is compared as it was when that catch-up began.
        high_seq = proof.high_seq
        for page in self._store.unseen(
            vessel.vessel_id, position.entity, high_seq, proof.sweep, proof.buckets
        ):
            theirs = self._of_others(vessel, position.entity, page)
            mine = [row_id for row_id in page if row_id not in theirs]
            gone = self._delete(vessel, copy, mine, proof.sweep)
            self._store.bury(vessel.vessel_id, position.entity, [*gone, *theirs])
            self._ledger.forget(vessel.vessel_id, position.entity)
            if proof.buckets is not None:
                self.result.repaired += [
                    (vessel.vessel_id, position.entity, row_id) for row_id in gone
                ]
            swept += len(gone)
        if proof.buckets is None:
            self._store.let_go(vessel.vessel_id, position.entity, high_seq, proof.sweep)
        if swept:
            self.counters[SWEPT, position.entity, "", ""] += swept
            self.result.rows += swept
        self._known = {
            key: known
            for key, known in self._known.items()
            if key[:2] != (vessel.vessel_id, position.entity)
        }

    def _of_others(self, vessel: VesselState, entity: str, row_ids: list[str]) -> set[str]:
        """Return those rows that another vessel has: what this vessel knows of them may go, they may not."""
        return {
            row_id
            for vessel_id, row_id, known in self._store.claims(entity, row_ids)
            if (known.owner and vessel_id == vessel.vessel_id)
            or (known.is_own and not known.deleted and vessel_id != vessel.vessel_id)
        }

    def _delete(self, vessel: VesselState, copy: Copy, row_ids: list[str], mark: int) -> list[str]:
        """Delete rows, and return those that are gone; the others are held."""
        keys = [copy.key_of(row_id) for row_id in row_ids]
        try:
            with self._store.savepoint():
                copy.delete(self._store.connection, keys)
        except IntegrityError:
            pass
        else:
            return row_ids
        gone = []
        entity = copy.registration.entity
        known = dict(self._store.rows(vessel.vessel_id, entity, row_ids))
        for row_id, key in zip(row_ids, keys, strict=True):
            try:
                with self._store.savepoint():
                    copy.delete(self._store.connection, [key])
                gone.append(row_id)
            except IntegrityError as error:
                change = Change(
                    vessel.vessel_id, vessel.epoch, copy.followed.topic, entity, Operation.DELETE,
                    row_id, known[row_id].version + 1, known[row_id].seq, 0, self._now,
                    {copy.followed.id_key: key},
                )  # fmt: skip
                self._store.hold(change, mark, _reason(error))
                self.holds = True
        return gone


def _tells_epoch(message: Message, vessel: VesselState) -> bool:
    """Tell whether a message of another epoch begins that epoch; other messages of another one are late.

    A vessel says that it is online before it says anything else, so that its status is the authority; it
    may bring an epoch back that was taken for ended. So does the answer to what we have asked.
    """
    if isinstance(message, Status):
        return message.online or message.epoch not in vessel.past
    return isinstance(message, Begin) and vessel.positions[message.topic].is_mine(
        message.request_id
    )


def _repairs(run: Run | None) -> bool:
    """Whether an audit has found these rows to differ: what is known of them may not be what is there."""
    return run is not None and run.useful and run.buckets is not None


def _is_news(change: Change, run: Run | None, known: Known | None, content: str) -> bool:
    """Tell whether a change is to be applied.

    :param run: the catch-up that it is an item of.
    :param content: the hash of its row; empty for a delete.
    """
    before = (known.version, known.hash) if known is not None else None
    of_snapshot = run is not None and run.useful and run.mode == "snapshot"
    if is_news(change.version, lambda: content, before, of_snapshot=of_snapshot):
        return True
    if run is None or known is None:
        return False
    if _repairs(run) and change.version == known.version:
        return True
    return _is_authoritative(change, run, known)


def _is_authoritative(change: Change, run: Run, known: Known) -> bool:
    """Tell whether a snapshot's row counts whatever version is known: that was before the snapshot."""
    return (
        run.useful
        and run.mode == "snapshot"
        and change.seq == run.high_seq >= known.seq
        and change.version < known.version
    )


def _change_of(held: Held) -> Change:
    return Change(
        held.vessel_id, "", "", held.entity, held.operation, held.row_id, held.version, held.seq,
        0, 0, held.data,
    )  # fmt: skip


def _is_outage(error: BaseException) -> bool:
    """Whether the database is at fault, not the row."""
    if isinstance(error, IntegrityError | DataError | InterfaceError):
        return bool(getattr(error, "connection_invalidated", False))
    # Its subclasses for what a database does when it is locked, full, or gone.
    return isinstance(error, DBAPIError)


def _reason(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split())[:500]
