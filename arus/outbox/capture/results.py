"""The results of statements, read before the application reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import CursorResult, Row


def kept_rows(result: CursorResult[Any]) -> Sequence[Row[Any]]:
    """Fetch all rows of a new result, and return them; whoever has executed the statement reads them as ever."""
    rows = result.all()
    # As SQLAlchemy itself does for a RETURNING that it needs as well.
    result._rewind(rows)
    return rows


def without_rows(result: CursorResult[Any], count: int) -> None:
    """Close a result whose rows were read, and for which the application has not asked; it tells their number."""
    context: Any = result.context
    context._rowcount = (
        count  # SQLite's driver knows it only now, and SQLAlchemy has asked it before
    )
    result.close()
