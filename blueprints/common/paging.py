"""Keyset paging, newest first: rows added or deleted meanwhile cause no skipped or repeated rows."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Select, tuple_

from extensions import db
from extensions.api import InvalidError
from extensions.database import Row

from .fields import is_id

R = TypeVar("R", bound=Row)

DEFAULT_LIMIT = 50
MAX_LIMIT = 200


def encode(row: Row) -> str:
    """Return the cursor that continues after `row`."""
    return base64.urlsafe_b64encode(f"{row.created_at.isoformat()} {row.id}".encode()).decode()


def decode(cursor: str) -> tuple[datetime, str]:
    """Return the position of `cursor`: a time and an id.

    :raises InvalidError: it is not a cursor of this list.
    """
    try:
        moment, _, row_id = base64.urlsafe_b64decode(cursor.encode()).decode().partition(" ")
        created_at = datetime.fromisoformat(moment)
    except (ValueError, binascii.Error) as error:
        raise InvalidError({"cursor": ["Not a cursor of this list."]}) from error
    if not is_id(row_id) or created_at.tzinfo is None:
        raise InvalidError({"cursor": ["Not a cursor of this list."]})
    return created_at, row_id


def page(
    query: Select[R], model: type[R], limit: int, cursor: str | None
) -> tuple[list[R], str | None]:
    """Return up to `limit` rows of `query` after `cursor`, and the next cursor if there are more."""
    order = tuple_(model.created_at, model.id)
    if cursor:
        query = query.where(order < tuple_(*decode(cursor)))
    query = query.order_by(model.created_at.desc(), model.id.desc()).limit(limit + 1)
    rows = list(db.session.scalars(query))
    return rows[:limit], encode(rows[limit - 1]) if len(rows) > limit else None
