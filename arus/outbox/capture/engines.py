"""The engines whose changes are captured, and how a session or connection finds its own."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, SessionTransaction

from arus.database import Reader
from arus.registry import Registry

from .actors import Actors
from .pending import pending_of

#: Where a dialect, and a session in a transaction, keep their engine; and a connection the session that uses it.
_ENGINE = "arus_engine"
_SESSION = "arus_used_by"
#: Where a session keeps its only connection on a captured engine; None if it has several.
_CONNECTION = "arus_connection"
#: Where a session keeps the connection that another session has used before it, in the same transaction, and that one.
_USED_BEFORE = "arus_used_before"
#: Marks the sessions of `open_reader`.
_OURS = "arus_reader"


class Sink(Protocol):
    """Notified of captured changes, for one application."""

    def captured(self) -> None:
        """Called after a commit that captured something."""


class CapturedEngine:
    """An engine of an application that captures changes.

    :param registry: the models whose changes are captured.
    :param actors: knows who makes the changes.
    :param sink: referenced weakly: the application may end before the engine.
    """

    def __init__(self, registry: Registry, actors: Actors, sink: Sink) -> None:
        self.registry = registry
        self.actors = actors
        self._sink = weakref.ref(sink)

    def notify(self) -> None:
        """Tell the application that changes were committed."""
        sink = self._sink()
        if sink is not None:
            sink.captured()


def add_engine(engine: Engine, captured: CapturedEngine) -> None:
    """Capture the changes that are made with an engine."""
    # An engine shares its dialect with the engines that its `execution_options` returns.
    setattr(engine.dialect, _ENGINE, captured)


def engine_of(bind: Engine | Connection) -> CapturedEngine | None:
    """Return the captured engine of a session's bind; None if nothing is captured."""
    return getattr(bind.dialect, _ENGINE, None)


def find_engine(session: Session) -> CapturedEngine | None:
    """Return the captured engine that a session's transaction uses; None if it uses none (yet)."""
    found: CapturedEngine | None = session.info.get(_ENGINE)
    return found


def session_of(connection: Connection) -> Session | None:
    """Return the session that uses a connection in its transaction; None for a connection without a session."""
    found: weakref.ref[Session] | None = getattr(connection, _SESSION, None)
    session = found() if found is not None else None
    return session if session is not None and find_engine(session) is not None else None


def connection_of(session: Session, model: type[Any]) -> Connection:
    """Return the connection by which a session changes a registered model in its transaction."""
    found: Connection | None = session.info.get(_CONNECTION)
    # Asking the session takes much longer, and is needed only if its transaction has several connections.
    return found or session.connection(bind_arguments={"mapper": model})


def open_reader(connection: Connection) -> Session:
    """Return a session that reads rows in a connection's transaction. It must not be used to write."""
    return Reader(
        connection, join_transaction_mode="rollback_only", autoflush=False, info={_OURS: True}
    )


def after_begin(session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
    """Note which captured engine a session's transaction uses."""
    captured = engine_of(connection)
    if captured is not None and _OURS not in session.info:
        session.info[_ENGINE] = captured
        known = session.info.get(_CONNECTION, connection)
        session.info[_CONNECTION] = connection if known is connection else None
        other = session_of(connection)
        if other is not None and other is not session:
            session.info[_USED_BEFORE] = connection, weakref.ref(other)
        setattr(connection, _SESSION, weakref.ref(session))
        if connection._is_autocommit_isolation() or _joins(session, connection):
            # Without a commit nothing would be undone: what a flush changes is written with it.
            pending_of(session).sealed = True


def _joins(session: Session, connection: Connection) -> bool:
    """Whether the transaction of a session is the one of the connection that it was given, which may commit what it does not."""
    mode = session.join_transaction_mode
    if not isinstance(session.bind, Connection):
        return False
    is_joining = mode == "conditional_savepoint" and not connection.in_nested_transaction()
    return is_joining or mode == "rollback_only"


def forget_engine(session: Session) -> None:
    """Note that a session's transaction has ended."""
    session.info.pop(_ENGINE, None)
    session.info.pop(_CONNECTION, None)
    connection, other = session.info.pop(_USED_BEFORE, (None, None))
    if connection is not None:
        setattr(connection, _SESSION, other)
