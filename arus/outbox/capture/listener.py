"""What the extension attaches to models, sessions and engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from arus.errors import CaptureError
from arus.protocol.entries import Operation
from arus.registry import Registry

from . import engines, flush, transactions
from .actors import Actors
from .connections import capture_connections
from .engines import CapturedEngine, Sink, add_engine, find_engine
from .flush import FlushEvents
from .pending import innermost, note, pending_of
from .plugins import tell_of_bulk_statements
from .recorded import recorded
from .statements import Statements
from .writer import write_if_sealed

#: Listeners for all sessions: each finds out whether its session uses a captured engine.
_SESSION_EVENTS: dict[str, Callable[..., Any]] = {
    "after_begin": engines.after_begin,
    "before_flush": flush.before_flush,
    "after_flush": flush.after_flush,
    "after_flush_postexec": flush.after_flush_postexec,
    "after_soft_rollback": flush.after_soft_rollback,
    "before_commit": transactions.before_commit,
    "after_commit": transactions.after_commit,
    "after_transaction_end": transactions.after_transaction_end,
}


class Capture:
    """Writes the change log for the registered models, on each engine that it is bound to."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        #: Who makes the changes.
        self.actors = Actors()
        self._flushes = FlushEvents(registry)

    def bind(self, engine: Engine, sink: Sink) -> None:
        """Capture the changes that are made with an engine, whichever session or connection makes them.

        :param sink: notified of captured changes; it lives as long as its application.
        """
        captured = CapturedEngine(self._registry, self.actors, sink)
        add_engine(engine, captured)
        capture_connections(engine, Statements(captured))
        tell_of_bulk_statements()
        for name, listener in _SESSION_EVENTS.items():
            if not event.contains(Session, name, listener):
                event.listen(Session, name, listener)

    def watch(self, model: type[Any]) -> None:
        """Attach to a registered model."""
        self._flushes.watch(model)

    def record(self, session: Session, operation: Operation, row: Any) -> None:
        """Capture a change that was made without the ORM (raw SQL), in the session's transaction.

        :raises CaptureError: the model is not registered, no transaction has begun, there is no such row, or
            its version is not known or below 1.
        """
        registration = self._flushes.registration(row)
        if engines.engine_of(session.get_bind(registration.model)) is None:
            return
        transaction = innermost(session)
        if transaction is None:
            raise CaptureError("a change can be captured only inside a transaction")
        session.connection(bind_arguments={"mapper": registration.model})
        assert find_engine(session) is not None, "the connection has begun"
        change = recorded(session, operation, registration, row)
        note(session, change)
        pending_of(session).pay(transaction, change)
        write_if_sealed(session)
