"""Statements on registered tables that can't be captured: reported once for each place, and counted."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable

from sqlalchemy import Connection
from sqlalchemy import inspect as inspector_of

from arus.logs import get_logger
from arus.outbox.counters import UNCAPTURED, add_to_counters
from arus.outbox.sql.build import TABLES

logger = get_logger(__name__)

#: Packages between the application's statement and this module.
_PASSED_OVER = {"alembic", "arus", "flask_migrate", "flask_sqlalchemy", "sqlalchemy"}
#: Places that were reported.
_reported: set[tuple[str, str]] = set()


def place_of_caller() -> str:
    """Return the file and line of the application's code that executes a statement."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_back is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _PASSED_OVER:
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "somewhere"


def report_uncaptured(connection: Connection, entities: Iterable[str]) -> None:
    """Count an executed statement whose changes are not in the log, and log its place the first time."""
    place, named = place_of_caller(), ", ".join(sorted(entities))
    if (place, named) not in _reported:
        _reported.add((place, named))
        logger.warning(
            "[MQTT Reliable Sync] a statement that can't be captured has written to %s at %s:"
            " call sync.record for its rows in a session, or run `flask sync reconcile` afterwards",
            named,
            place,
        )
    # In the statement's own transaction, so that it counts if the statement does. A migration may run before the
    # table exists.
    if inspector_of(connection).has_table(TABLES.counter.name):
        add_to_counters(connection, {(UNCAPTURED, "", "", ""): 1})


def is_migrating(connection: Connection) -> bool:
    """Whether Alembic is migrating the database on a connection: models may not fit their tables yet."""
    # Importing Alembic takes a fifth of an application's start: where nobody has, no migration is running.
    op = sys.modules.get("alembic.op")
    if op is None:
        return False
    try:
        context = op.get_context()
    except (NameError, AttributeError):  # how Alembic says that no migration is running
        return False
    return bool(context.connection is connection)
