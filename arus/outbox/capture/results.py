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
