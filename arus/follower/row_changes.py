"""Which changes of rows are applied: they must be new, and the row must belong to the vessel."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from arus.errors import RefusedMessageError
from arus.logs import get_logger
from arus.protocol.digests import bucket_of, row_hash
from arus.protocol.entries import Operation

from .audits.texts import word
from .messages import Change
from .outcome import FOREIGN, REFUSED, REPEATED, Outcome
from .records import RowKey, RowRecords
from .rows import Copy
from .runs import Run
from .store import Known
from .vessels import VesselState
from .writer import RowWriter

logger = get_logger(__name__)

#: Maximum number of dead letters about other vessels' rows, for one vessel and one process.
MAX_FOREIGN_KEPT = 100


class RowChanges:
    """Processes changes of rows, one after another, and passes the new ones to the writer."""

    def __init__(
        self,
        copies: Mapping[str, Copy],
        vessels: Mapping[str, VesselState],
        records: RowRecords,
        writer: RowWriter,
        outcome: Outcome,
    ) -> None:
        self._copies = copies
        self._vessels = vessels
        self._records = records
        self._writer = writer
        self._outcome = outcome
        self._refusals = writer.refusals
        # Changes refused because another vessel owns the row: their number and the first row id, by vessel, entity
        # and owner.
        self._foreign: dict[tuple[str, str, str], tuple[int, str]] = {}

    def take(self, change: Change, run: Run | None, *, mark: int = 0) -> None:
        """Process a change of a row.

        :param run: the catch-up that it is an item of.
        :param mark: of the catch-up; at its end rows without this mark are swept.
        """
        key = key_of(change)
        known = self._records.get(key)
        content = ""
        try:
            content = self._content(change)
            if not _is_news(change, run, known, content):
                self._outcome.count(REPEATED, change.entity)
            elif self._refusals.knows(change, content):
                self._outcome.count(REPEATED, change.entity)
                self._refusals.seen(change, mark)
            elif change.fault:
                self._refuse_unreadable(change, mark)
            else:
                self._take_news(key, change, known, content, run, mark)
                return
        except (RefusedMessageError, ValueError) as error:
            self._refuse(change, str(error))
            self._refusals.add(change, content, str(error), mark)
        if mark and known is not None and known.mark != mark:
            self._records.learn(key, replace(known, mark=mark))

    def log_foreign(self) -> None:
        """Log the changes that were refused because another vessel owns their rows."""
        # One line for many: a vessel that was set up from a copy of another one sends all of that one's rows.
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

    def _refuse(self, change: Change, reason: str) -> None:
        """Refuse a change that does not fit its table; a field that the vessel never sends is logged once."""
        lacking = sorted(self._copies[change.entity].needed - change.data.keys())
        # A held change may be of a vessel that FOLLOW_VESSELS does not name any more.
        vessel = self._vessels.get(change.vessel_id)
        if not lacking or vessel is None or change.operation == Operation.DELETE:
            self._outcome.refuse_change(change, reason)
            return
        news = {(change.entity, name) for name in lacking} - vessel.lacking
        if news:
            vessel.lacking |= news
            logger.error(
                "[MQTT Reliable Sync] rows of %s of %s can't be written: the vessel does not send %s,"
                " which the table here requires; give it a default or allow NULL, or upgrade the vessel",
                change.entity,
                change.vessel_id,
                ", ".join(word(name) for name in lacking),
            )
        source = self._outcome.sources.get(id(change))
        if source is not None:
            self._outcome.count(REFUSED)
            self._outcome.keep(source, reason, change.vessel_id)

    def _refuse_unreadable(self, change: Change, mark: int) -> None:
        if change.operation == Operation.DELETE:  # of a row that could not be read either
            self._refusals.removed(change)
            self._outcome.count(REPEATED, change.entity)
            return
        self._outcome.refuse_change(change, change.fault)
        if change.row_id:
            self._refusals.add(change, "", change.fault, mark)

    def _content(self, change: Change) -> str:
        """Return the hash of a change's row; empty for a deletion, and for a row that can't be read."""
        if change.operation == Operation.DELETE or change.fault:
            return ""
        if self._copies[change.entity].is_mere(change.data):
            raise RefusedMessageError("the vessel can't send this row")
        return row_hash(change.data, self._copies[change.entity].fields)

    def _take_news(
        self,
        key: RowKey,
        change: Change,
        known: Known | None,
        content: str,
        run: Run | None,
        mark: int,
    ) -> None:
        is_delete = change.operation == Operation.DELETE
        owner = self._records.owner_of(key)
        if not owner:
            copy = self._copies[change.entity]
            values = None if is_delete else copy.values(change.data, change.version)
            copy.check_id(change.data[copy.followed.id_key])
            if (alias := self._writer.alias_of(copy, change.row_id)) is not None:
                raise RefusedMessageError(
                    f"the table takes the row's id for that of another row, {alias}"
                )
            self._writer.add(key, change, values)
            if _repairs(run) and (
                known is None or (known.version, known.hash) != (change.version, content)
            ):
                self._outcome.repaired.append(key)
        news = Known(
            change.version,
            max(change.seq, known.seq if known is not None else 0),
            is_delete,
            content,
            bucket_of(change.row_id),
            mark or (known.mark if known is not None else 0),
            owner,
        )
        # A vessel's record of another vessel's row is saved too, so that audits can name the row.
        self._records.learn(key, news)
        if owner:
            self._refuse_foreign(change, known, owner)

    def _refuse_foreign(self, change: Change, known: Known | None, owner: str) -> None:
        """Refuse a vessel's change of another vessel's row."""
        self._outcome.count(FOREIGN, change.entity)
        self._outcome.count(REFUSED)
        of = (change.vessel_id, change.entity, owner)
        count, first = self._foreign.get(of, (0, change.row_id))
        self._foreign[of] = (count + 1, first)
        # A held change may be of a vessel that FOLLOW_VESSELS does not name any more.
        vessel, source = (
            self._vessels.get(change.vessel_id),
            self._outcome.sources.get(id(change)),
        )
        if known is None and source and vessel and vessel.foreign_kept < MAX_FOREIGN_KEPT:
            vessel.foreign_kept += 1
            reason = f"the row {change.row_id} of {change.entity} belongs to {owner}"
            self._outcome.keep(source, reason, change.vessel_id)


def key_of(change: Change) -> RowKey:
    """Return the key of a change's row."""
    return change.vessel_id, change.entity, change.row_id


def _repairs(run: Run | None) -> bool:
    """Whether the catch-up repairs rows that an audit found to differ: their records may not match the table."""
    return run is not None and run.useful and run.buckets is not None


def _is_news(change: Change, run: Run | None, known: Known | None, content: str) -> bool:
    """Return whether a change is to be applied.

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
    """Return whether a snapshot's row applies although a higher version is known: that is older than the snapshot."""
    return (
        run.useful
        and run.mode == "snapshot"
        and change.seq == run.high_seq >= known.seq
        and change.version < known.version
    )


def is_news(
    version: int,
    content: Callable[[], str],
    known: tuple[int, str] | None,
    *,
    of_snapshot: bool,
) -> bool:
    """Return whether a change is to be applied.

    :param content: returns the hash of its row, empty for a delete; called only if needed.
    :param known: version and hash of the row here, including tombstones.
    :param of_snapshot: it is part of a snapshot: the vessel's current state applies also in the same version.
    """
    if known is None or version > known[0]:
        return True
    return of_snapshot and version == known[0] and content() != known[1]
