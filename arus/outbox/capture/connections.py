"""The connections of captured engines: they tell of each statement that they execute.

Listeners for SQLAlchemy's engine events could do the same. But each new connection (each transaction of a session)
then copies the engine's listeners, and each statement of each request looks for them several times, which costs
more than all else that is done for it here.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, CursorResult, Delete, Engine, UpdateBase
from sqlalchemy.sql.lambdas import StatementLambdaElement

from .engines import session_of
from .statements import Statements, is_flushed


class CapturedConnection(Connection):
    """A connection of a captured engine."""

    #: Of the engine.
    statements: Statements

    def begin_nested(self) -> Any:
        """Begin a savepoint, on SQLite inside a transaction.

        Python's SQLite driver begins one only for INSERT, UPDATE and DELETE. Outside a transaction, the RELEASE of a
        savepoint is a commit: the row would be committed without its entry.
        """
        if self.dialect.name == "sqlite":
            driver: Any = self.connection.dbapi_connection
            if not driver.in_transaction:
                self.exec_driver_sql("BEGIN")
        return super().begin_nested()

    def _execute_clauseelement(self, elem: Any, distilled_parameters: Any, options: Any) -> Any:
        """Execute a statement of SQLAlchemy: the one place that all of them pass, except compiled ones."""
        # This runs for each statement of each request.
        if not elem.is_dml:
            return super()._execute_clauseelement(elem, distilled_parameters, options)
        if isinstance(elem, StatementLambdaElement):
            elem = elem._resolved
        if not isinstance(elem, UpdateBase):
            self.statements.refuse_wrapped(self, elem)
            return super()._execute_clauseelement(elem, distilled_parameters, options)
        alone = not isinstance(elem, Delete) and not self.statements.reaches(elem)
        if alone and is_flushed(session_of(self), options):
            # The mappers report all that it changes, except what the database changes along with its rows.
            return super()._execute_clauseelement(elem, distilled_parameters, options)
        if self.statements.touches(elem):
            every = {**elem.get_execution_options(), **self.get_execution_options(), **options}
            elem, finish = self.statements.begin(self, elem, distilled_parameters or [{}], every)
        else:
            finish = None
        result = super()._execute_clauseelement(elem, distilled_parameters, options)
        if finish is not None:
            finish(result)
        return result

    def _execute_context(
        self, dialect: Any, constructor: Any, statement: Any, *given: Any, **named: Any
    ) -> Any:
        """Execute anything: the one place that all statements and texts pass."""
        result: CursorResult[Any] = super()._execute_context(
            dialect, constructor, statement, *given, **named
        )
        context: Any = result.context
        is_dml = context.isinsert or context.isupdate or context.isdelete
        if not is_dml or context.compiled.ctes is not None:
            # The text of a compiled statement is always the same object, which makes this a quick look-up.
            text = statement if isinstance(statement, str) else statement.string
            self.statements.note_text(self, text, result, in_ctes=is_dml)
        return result


def capture_connections(engine: Engine, statements: Statements) -> None:
    """Make an engine, and those that its `execution_options` will return, create captured connections."""
    connections = type("CapturedConnection", (CapturedConnection,), {"statements": statements})
    optional: Any = type(
        engine._option_cls.__name__, (engine._option_cls,), {"_connection_cls": connections}
    )
    optional._option_cls = optional
    engine._connection_cls, engine._option_cls = connections, optional
