"""Tells of the ORM's bulk statements, in the place of SQLAlchemy's own classes that execute them.

The session's event `do_orm_execute` would tell of them too. But where somebody listens to it, SQLAlchemy prepares every
statement of every session twice, SELECTs among them: one percent of the instructions of a request that writes. These
classes are only asked for an INSERT, UPDATE or DELETE.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Result
from sqlalchemy.orm import Session
from sqlalchemy.sql.base import CompileState

from . import bulk
from .bulk import BulkStatement

#: Kinds of statements, as SQLAlchemy calls them.
KINDS = ("insert", "update", "delete")


class _Told:
    """What is added to SQLAlchemy's class for a kind of statement."""

    @classmethod
    def orm_pre_session_exec(
        cls,
        session: Session,
        statement: Any,
        params: Any,
        execution_options: Mapping[str, Any],
        bind_arguments: dict[str, Any],
        is_pre_event: bool,
    ) -> Any:
        """Prepare a statement; a captured one only as far as for a listener, as it is not the one to be executed."""
        found = BulkStatement(session, statement, params, execution_options, bind_arguments)
        hold_off = is_pre_event or bulk.registration_of(found) is not None
        prepare: Any = super()
        return prepare.orm_pre_session_exec(
            session, statement, params, execution_options, bind_arguments, hold_off
        )

    @classmethod
    def orm_execute_statement(
        cls,
        session: Session,
        statement: Any,
        params: Any,
        execution_options: Any,
        bind_arguments: dict[str, Any],
        conn: Connection,
    ) -> Result[Any]:
        """Execute a prepared statement."""
        found = BulkStatement(session, statement, params, execution_options, bind_arguments)
        registration = bulk.registration_of(found)
        base: Any = super()
        run = base.orm_execute_statement
        if registration is None:
            executed: Result[Any] = run(
                session, statement, params, execution_options, bind_arguments, conn
            )
            return executed

        def invoke(changed: Any, options: Mapping[str, Any]) -> Any:
            # SQLAlchemy 2.1 returns the parameters too, as they were.
            changed, prepared, *_ = cls.orm_pre_session_exec(
                session, changed, params, execution_options.union(options), bind_arguments, False
            )
            return run(session, changed, params, prepared, bind_arguments, conn)

        return bulk.execute(found, registration, invoke)


def tell_of_bulk_statements() -> None:
    """Have SQLAlchemy execute the bulk statements of all sessions by classes that tell of them."""
    for kind in KINDS:
        known = CompileState.plugins["orm", kind]
        if not issubclass(known, _Told):
            CompileState.plugins["orm", kind] = type(known.__name__, (_Told, known), {})
