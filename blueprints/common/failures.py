"""Database failures: the response to the client and the line in the log."""

from __future__ import annotations

import logging
import sqlite3

from flask import Flask, Response
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from arus.database import lacks_tables
from extensions import db
from extensions.api import problem

logger = logging.getLogger(__name__)

NOT_MIGRATED = "The database is not migrated: run `flask --app wsgi db upgrade`."
NEWER = "The database was migrated by a newer version: install that version again."
BUSY = "The database is busy: nothing was written; try again."
UNAVAILABLE = "The database is not available: nothing was written; try again later."

#: SQLSTATEs (or their classes) of PostgreSQL that are not caused by the statement.
_BUSY_STATES = ("40", "55P03", "57014", "53300")
_UNAVAILABLE_STATES = ("08", "53", "57P", "58", "25006", "3D000", "28")

_BUSY_CODES = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_UNAVAILABLE_CODES = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}


def explain(error: DBAPIError | PoolTimeoutError) -> str | None:
    """Describe the state of the database that caused an error; None if the statement caused it."""
    if isinstance(error, PoolTimeoutError):
        return BUSY
    if lacks_tables(error):
        return NOT_MIGRATED
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return _explain_sqlite(cause)
    state: str | None = getattr(cause, "sqlstate", None)
    if state is None:
        # The server gave no answer: the connection failed.
        return (
            UNAVAILABLE
            if type(cause).__name__ in {"OperationalError", "ConnectionTimeout"}
            else None
        )
    if state.startswith(_BUSY_STATES):
        return BUSY
    return UNAVAILABLE if state.startswith(_UNAVAILABLE_STATES) else None


def _explain_sqlite(cause: sqlite3.Error) -> str | None:
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    if code in _BUSY_CODES:
        return BUSY
    return UNAVAILABLE if code in _UNAVAILABLE_CODES else None


def register_failures(app: Flask) -> None:
    """Answer 503 to errors that are caused by the database's state, not by the request or the code."""

    def answer(error: DBAPIError | PoolTimeoutError) -> Response:
        db.session.rollback()
        detail = explain(error)
        if detail is None:
            raise error
        logger.error("database failure: %s", error.orig if isinstance(error, DBAPIError) else error)
        return problem(503, detail, headers={"Retry-After": "5"})

    app.register_error_handler(DBAPIError, answer)
    app.register_error_handler(PoolTimeoutError, answer)
