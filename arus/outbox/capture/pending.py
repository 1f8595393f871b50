"""Changes of a session's transaction that are not written yet: the net change of each row."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field
from sqlalchemy.orm import InstanceState, Session, SessionTransaction

from arus.errors import CaptureError
from arus.protocol.entries import Operation, Receipt
from arus.registry import Registration

_KEY = "arus_changes"


class Content(Struct):
    """A row's content, as stored in an entry."""

    version: int
    #: JSON; None where it can't be serialised.
    data: bytes | None
    #: Why it can't be serialised.
    problem: str | None = None


class Change(Struct):
    """The net change of one row so far in this transaction."""

    operation: Operation
    registration: Registration
    row_id: str
    row: Any
    #: For a delete, the row's last content: nothing can be loaded once the delete is flushed.
    last: Content | None = None
    #: The last content of a row with the same key that this transaction has deleted before.
    replaced: Content | None = None
    #: An UPDATE of a flush has changed it: the object may be older than what others have written to other columns.
    may_be_old: bool = False
    #: It is said to be created because the log does not know it: it may have existed before.
    may_be_known: bool = False


class Owed(Struct, frozen=True):
    """A SQL text that has changed rows of a registered table: `sync.record` must follow for each of them."""

    entities: frozenset[str]
    #: How many rows it has changed, at least.
    rows: int
    #: File and line of the code that has executed it.
    place: str
    #: How many rows had been recorded before it in this transaction.
    after: int


#: The changes made directly in one (nested) transaction, by entity and row id.
Changes = dict[tuple[str, str], Change]


class Pending(Struct):
    """The changes of a session's current transaction and its savepoints."""

    changes: dict[SessionTransaction, Changes] = field(default_factory=dict)
    #: The commit has begun; changes that are flushed from now on are written at once.
    sealed: bool = False
    #: Entries could not be written: a commit now would lose them.
    failed: bool = False
    #: Flushed rows whose objects differ from the database, and the attributes to load again. None for all unloaded
    #: ones: if a row was deleted and added again in one flush, its object has only some of the attributes.
    incomplete: list[tuple[Any, list[str] | None]] = field(default_factory=list)
    #: The savepoints whose release has begun.
    releasing: set[SessionTransaction] = field(default_factory=set)
    #: The rows whose changes were written, and their receipts.
    receipts: list[tuple[InstanceState[Any], Receipt]] = field(default_factory=list)
    #: Who makes the transaction, in a tuple; empty until the application was asked.
    actor: tuple[str | None, ...] = ()
    #: SQL texts that have changed rows, and the rows that were recorded: number, entity and id.
    owed: dict[SessionTransaction, list[Owed]] = field(default_factory=dict)
    recorded: dict[SessionTransaction, list[tuple[int, str, str]]] = field(default_factory=dict)
    records: int = 0

    def take(self, transaction: SessionTransaction) -> Changes:
        """Remove and return the changes made directly in a transaction."""
        return self.changes.pop(transaction, {})

    def move(self, savepoint: SessionTransaction, outer: SessionTransaction) -> None:
        """Move the changes of a released savepoint to the enclosing transaction."""
        into = self.changes.setdefault(outer, {})
        for change in self.take(savepoint).values():
            merge(into, change)
        self.owed.setdefault(outer, []).extend(self.owed.pop(savepoint, []))
        self.recorded.setdefault(outer, []).extend(self.recorded.pop(savepoint, []))

    def forget(self, transaction: SessionTransaction) -> None:
        """Discard the remaining changes of a transaction that has ended: it was rolled back."""
        self.changes.pop(transaction, None)
        self.owed.pop(transaction, None)
        self.recorded.pop(transaction, None)
        self.releasing.discard(transaction)

    def owe(
        self, transaction: SessionTransaction, entities: frozenset[str], rows: int, place: str
    ) -> None:
        """Note a SQL text that has changed rows."""
        owed = Owed(entities, rows, place, self.records)
        self.owed.setdefault(transaction, []).append(owed)

    def pay(self, transaction: SessionTransaction, change: Change) -> None:
        """Note that a change was recorded."""
        self.records += 1
        row = (self.records, change.registration.entity, change.row_id)
        self.recorded.setdefault(transaction, []).append(row)

    def unpaid(self, transaction: SessionTransaction) -> Owed | None:
        """Return a SQL text with more changed rows than were recorded after it; None if there is none."""
        recorded = self.recorded.get(transaction, [])
        for owed in self.owed.get(transaction, []):
            rows = {(e, i) for at, e, i in recorded if at > owed.after and e in owed.entities}
            if len(rows) < owed.rows:
                return owed
        return None


def find_pending(session: Session) -> Pending | None:
    """Return the pending changes of a session's transaction; None if there are none."""
    found: Pending | None = session.info.get(_KEY)
    return found


def pending_of(session: Session) -> Pending:
    """Return the pending changes of a session's transaction, created on the first call."""
    found: Pending | None = session.info.get(_KEY)
    if found is None:
        found = session.info[_KEY] = Pending()
    return found


def end(session: Session) -> None:
    """Discard the pending changes of a session whose transaction has ended."""
    del session.info[_KEY]


def innermost(session: Session) -> SessionTransaction | None:
    """Return the transaction or savepoint that a session is in."""
    return session.get_nested_transaction() or session.get_transaction()


def note(session: Session, change: Change) -> Pending:
    """Note a change in the session's transaction.

    :raises CaptureError: no transaction has begun.
    """
    transaction = innermost(session)
    if transaction is None:
        raise CaptureError("a change can be captured only inside a transaction")
    pending = pending_of(session)
    merge(pending.changes.setdefault(transaction, {}), change)
    return pending


def merge(into: Changes, change: Change) -> None:
    """Merge a later change of a row into the net change so far."""
    key = (change.registration.entity, change.row_id)
    earlier = into.get(key)
    if earlier is None:
        into[key] = change
    elif earlier.operation is Operation.CREATE and change.operation is Operation.DELETE:
        if earlier.may_be_known:
            into[key] = change
        else:
            del into[key]
    elif earlier.operation is Operation.CREATE:
        earlier.row = change.row
    else:
        into[key] = _after(earlier, change)


def _after(earlier: Change, change: Change) -> Change:
    """Return the net change of a row that existed when the transaction began."""
    known = (earlier.last, earlier.replaced, change.replaced, change.last)
    contents = [content for content in known if content is not None]
    before = max(contents, key=lambda content: content.version, default=None)
    if change.operation is Operation.DELETE:
        change.last = before
    else:
        change.replaced = before
        change.operation = Operation.UPDATE
    return change
