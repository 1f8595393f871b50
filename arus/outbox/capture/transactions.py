"""Writes captured changes at the commit, except those of savepoints that were rolled back."""

from __future__ import annotations

from sqlalchemy.orm import Session, SessionTransaction

from arus.errors import CaptureError

from .engines import find_engine, forget_engine
from .pending import Pending, end, find_pending, innermost, pending_of
from .writer import hand_out_receipts, write_if_sealed


def before_commit(session: Session) -> None:
    """Write the changes of the transaction; for a savepoint, note that its release has begun."""
    nested = session.get_nested_transaction()
    if nested is not None:
        _before_release(session, nested)
        return
    session.flush()  # may begin the transaction: only then is it known which engine it uses
    if find_engine(session) is None:
        return
    pending = pending_of(session)
    if pending.failed:
        raise CaptureError("changes of this transaction could not be captured; roll it back")
    if pending.owed:
        _check_recorded(session, pending)
    pending.sealed = True
    write_if_sealed(session)


def _before_release(session: Session, savepoint: SessionTransaction) -> None:
    pending = pending_of(session)
    if savepoint not in pending.releasing:
        pending.releasing.add(savepoint)
        return
    # The second event for this savepoint: the first one was for an enclosing transaction, and no event
    # will follow after the savepoint's changes have moved to that transaction.
    session.flush()
    if any(pending.changes.values()):
        raise CaptureError(
            "a transaction with changes to capture was committed while a savepoint in it was "
            "open; end the savepoint first"
        )


def _check_recorded(session: Session, pending: Pending) -> None:
    transaction = innermost(session)
    owed = pending.unpaid(transaction) if transaction is not None else None
    if owed is not None:
        raise CaptureError(
            f"{owed.place} has changed {owed.rows} rows of {', '.join(sorted(owed.entities))} by a SQL text, which"
            " can't be captured: call sync.record for each of these rows before the commit, or use the model"
        )


def after_commit(session: Session) -> None:
    """Notify of captured changes; for a savepoint, move its changes to the enclosing transaction."""
    pending = find_pending(session)
    if pending is None:
        return
    nested = session.get_nested_transaction()
    if nested is None:
        hand_out_receipts(pending)
        engine = find_engine(session)
        if engine is not None and pending.receipts:
            engine.notify()
        return
    outer = nested.parent
    while outer is not None and outer.parent is not None and not outer.nested:
        outer = outer.parent  # begun inside a flush
    if outer is not None:
        pending.move(nested, outer)


def after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    """Discard changes that were rolled back."""
    if transaction.parent is not None and not transaction.nested:
        return  # begun inside a flush: its changes are those of the transaction around it
    pending = find_pending(session)
    if pending is not None:
        pending.forget(transaction)
    if transaction.parent is None:
        forget_engine(session)
        if pending is not None:
            end(session)
