"""Times as they are stored are read as times in UTC, whoever wrote them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.dialects import sqlite

from extensions.database import UtcDateTime

READ: Any = UtcDateTime().dialect_impl(sqlite.dialect()).result_processor(sqlite.dialect(), None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-28 10:12:57.166000", datetime(2026, 11, 28, 10, 12, 57, 166000, UTC)),
        ("2026-11-28 10:12:57", datetime(2026, 11, 28, 10, 12, 57, tzinfo=UTC)),
        ("2026-11-28T10:12:57.166", datetime(2026, 11, 28, 10, 12, 57, 166000, UTC)),
        (None, None),
    ],
)
def test_a_time_in_sqlite_is_in_utc(text: str | None, moment: datetime | None) -> None:
    assert READ(text) == moment
    assert moment is None or READ(text).tzinfo is UTC


def test_what_is_no_time_is_told() -> None:
    with pytest.raises(ValueError, match="never"):
        READ("never")
