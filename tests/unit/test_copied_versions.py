"""A copy whose table has a version where the vessel's has none: that of the vessel's log counts."""

from __future__ import annotations

from typing import Any

import pytest
from marshmallow import Schema, fields
from sqlalchemy import Column, Integer, String
from sqlalchemy.orm import DeclarativeBase

from arus.errors import RefusedMessageError
from arus.follower.rows import Copy
from arus.registry import Registry


class VersionedSchema(Schema):
    id = fields.String()
    version = fields.Integer()


def copy_of(**options: Any) -> Copy:
    """The copy of a table with a version that is defined by `options`."""

    class Base(DeclarativeBase):
        pass

    class Pump(Base):
        __tablename__ = "pump"
        id = Column(String(36), primary_key=True)
        version = Column(Integer, **options)

    registry = Registry()
    registry.add(Pump, "pumps", topic="pumps", qos=1, schema=VersionedSchema(), version="version")
    return Copy(next(iter(registry)))


@pytest.mark.parametrize(
    "options", [{"nullable": False}, {"nullable": False, "default": 1}, {"nullable": True}]
)
def test_a_row_without_a_version_gets_that_of_its_message(options: dict[str, Any]) -> None:
    copy = copy_of(**options)
    assert copy.values({"id": "a"}, 7) == {"id": "a", "version": 7}
    assert "version" not in copy.needed


def test_a_version_that_differs_from_its_message_is_refused() -> None:
    with pytest.raises(RefusedMessageError, match="version differs"):
        copy_of(nullable=False).values({"id": "a", "version": 6}, 7)
