"""All rows of a registered table as objects of their model: also rows that the application hides, or that can't be read.

An application may have its sessions leave rows out (a listener for soft deletes): for the sync a hidden row is a row. Another
program may have written what is none of the column's type: bytes that are no UTF-8, a time that Python does not have, a
text for a number. Such a row must not hide all others of its table.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select
from sqlalchemy.exc import DBAPIError

from arus.database import Reader, is_of_a_value
from arus.logs import get_logger
from arus.registry import Registration

logger = get_logger(__name__)


def load_rows(
    session: Reader, registration: Registration, statement: Select[Any]
) -> list[tuple[Any, Any]]:
    """Return the rows of a SELECT of the model with their primary keys; None for a row that can't be read (logged).

    :raises DBAPIError: the database has refused the statement, or a key can't be read.
    """
    name = registration.key
    try:
        return [(getattr(row, name), row) for row in session.scalars(statement).unique()]
    except Exception as error:
        if not is_of_a_value(error):
            raise
    key = getattr(registration.model, name)
    keys = session.scalars(statement.with_only_columns(key)).all()
    return [(one, _row(session, registration, statement.where(key == one), one)) for one in keys]


def _row(session: Reader, registration: Registration, statement: Select[Any], key: Any) -> Any:
    try:
        return session.scalars(statement).unique().one_or_none()
    except Exception as error:
        if not is_of_a_value(error):
            raise
        says = error.orig if isinstance(error, DBAPIError) else error
        logger.warning(
            "[MQTT Reliable Sync] the row %s of %s can't be read: %s: %s",
            key, registration.entity, type(says).__name__, str(says)[:200],
        )  # fmt: skip
        return None
