"""The records of the rows in a batch: versions and owners, and which of them are not saved yet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from arus.protocol.rows import is_row_id

from .audits.ledger import Ledger
from .messages import Change, Message
from .proposals import answered
from .store import Known, Store

#: The key of a vessel's row: vessel, entity, row id.
RowKey = tuple[str, str, str]


class RowRecords:
    """The records of the rows in the messages of one transaction.

    :param ledger: receives the changes of the records.
    :param siblings: of an entity, the others whose rows are in the same table: a row belongs to one vessel there.
    """

    def __init__(self, store: Store, ledger: Ledger, siblings: Mapping[str, Sequence[str]]) -> None:
        self._store = store
        self._ledger = ledger
        self._siblings = siblings
        self._known: dict[RowKey, Known] = {}
        # The vessel that each row, by entity and id, belongs to.
        self._owners: dict[tuple[str, str], str] = {}
        self._unsaved: dict[RowKey, Known] = {}
        self._before: dict[RowKey, Known | None] = {}
        # The vessels that have become the owners of rows, by entity and id.
        self._new_owners: dict[tuple[str, str], str] = {}

    def fetch(self, messages: Iterable[Message]) -> None:
        """Read the records of all rows in the messages."""
        wanted: dict[str, set[str]] = defaultdict(set)
        for message in messages:
            if isinstance(message, Change) and is_row_id(message.row_id):
                wanted[message.entity].add(message.row_id)
        for entity, row_ids in wanted.items():
            for vessel_id, row_id, known in self._store.claims(entity, row_ids):
                self._known[vessel_id, entity, row_id] = known
                if known.is_own:
                    self._belongs(entity, row_id, vessel_id)
            for sibling in self._siblings.get(entity, ()):
                for vessel_id, row_id, known in self._store.claims(sibling, row_ids):
                    if known.is_own:
                        self._belongs(entity, row_id, vessel_id)

    def _belongs(self, entity: str, row_id: str, vessel_id: str) -> None:
        self._owners.setdefault((entity, row_id), vessel_id)
        if self._siblings:
            for sibling in self._siblings.get(entity, ()):
                self._owners.setdefault((sibling, row_id), vessel_id)

    def get(self, key: RowKey) -> Known | None:
        """Return the record of a row."""
        return self._known.get(key)

    def owner_of(self, key: RowKey) -> str:
        """Return the other vessel that owns a row; empty if it is the vessel's own, or has no owner."""
        owner = self._owners.get(key[1:], "")
        return "" if owner == key[0] else owner

    def learn(self, key: RowKey, known: Known) -> None:
        """Update the record of a row from a change."""
        before = self._known.get(key)
        self._before.setdefault(key, before)
        self._known[key] = self._unsaved[key] = known
        if known.is_own:
            self._belongs(key[1], key[2], key[0])
            if before is None and not known.deleted:
                self._new_owners[key[1:]] = key[0]
        self._ledger.learnt(key, before, known, known.seq)

    def undo(self, key: RowKey) -> int:
        """Undo the unsaved change of a row's record; return the mark that it contained."""
        learnt, before = self._unsaved.pop(key), self._before[key]
        self._new_owners.pop(key[1:], None)
        self._ledger.learnt(key, learnt, before, learnt.seq)
        del self._known[key]
        if (before is None or not before.is_own) and self._owners.get(key[1:]) == key[0]:
            del self._owners[key[1:]]
        if before is not None:
            self._known[key] = self._unsaved[key] = replace(before, mark=learnt.mark)
        return learnt.mark

    def contested(self) -> str | None:
        """Return a row that has become the property of two vessels, in two transactions at the same moment.

        To be called after the rows are written: writing the same row waits for the end of the other transaction, so
        the later one finds the record of the earlier one.
        """
        wanted: dict[str, list[str]] = defaultdict(list)
        for entity, row_id in self._new_owners:
            wanted[entity].append(row_id)
        for entity, row_ids in wanted.items():
            for vessel_id, row_id, known in self._store.claims(entity, row_ids):
                is_owner = known.is_own and not known.deleted
                if is_owner and vessel_id != self._new_owners[entity, row_id]:
                    return f"{row_id} of {entity}"
        return None

    def save(self) -> dict[RowKey, int]:
        """Save the changed records; return their versions."""
        self._store.save_rows(self._unsaved)
        answered(self._store.connection, self._unsaved)
        versions = {key: known.version for key, known in self._unsaved.items()}
        self._unsaved.clear()
        self._before.clear()
        return versions

    def forget_vessel(self, vessel_id: str) -> None:
        """Discard the records of a vessel that is not known any more."""
        self._ledger.forget(vessel_id)
        self._known = {key: known for key, known in self._known.items() if key[0] != vessel_id}
        for of in [of for of, owner in self._owners.items() if owner == vessel_id]:
            del self._owners[of]

    def forget_versions(self, vessel_id: str) -> None:
        """Reset a vessel's versions and numbers: they compare within one epoch only."""
        self._store.forget_epoch(vessel_id)
        self._ledger.forget(vessel_id)
        for key, known in list(self._known.items()):
            if key[0] == vessel_id and known.version > 0:
                self._known[key] = replace(known, version=0, seq=0)

    def forget_numbers(self, vessel_id: str, entity: str, high_seq: int) -> None:
        """Lower numbers above `high_seq` to it: the vessel has never assigned them."""
        self._store.forget_numbers(vessel_id, entity, high_seq)
        self._ledger.forget(vessel_id, entity)
        for key, known in list(self._known.items()):
            if key[:2] == (vessel_id, entity) and known.seq > high_seq:
                self._known[key] = replace(known, seq=high_seq)

    def bury(self, vessel_id: str, entity: str, row_ids: list[str]) -> None:
        """Note that rows are deleted."""
        self._store.bury(vessel_id, entity, row_ids)
        self._ledger.forget(vessel_id, entity)

    def forget_entity(self, vessel_id: str, entity: str) -> None:
        """Discard the loaded records of a vessel's table: many of them have changed."""
        self._known = {
            key: known for key, known in self._known.items() if key[:2] != (vessel_id, entity)
        }
