"""The equipment table."""

from __future__ import annotations

from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from extensions.database import ExactJSON, list_indexes
from extensions.text_keys import SearchedRow, attach_triggers, key_of, search_indexes


class Equipment(SearchedRow):
    """A piece of equipment on board."""

    __tablename__ = "equipment"
    __table_args__ = (
        *list_indexes("equipment", "is_active", "criticality_level"),
        *search_indexes("equipment", "name", "type", "location", "manufacturer"),
    )
    searched = ("name", "type", "manufacturer", "model", "serial_number", "location")

    name: Mapped[str] = mapped_column(String(200))
    type: Mapped[str] = mapped_column(String(100))
    manufacturer: Mapped[str | None] = mapped_column(String(100))
    model: Mapped[str | None] = mapped_column(String(100))
    serial_number: Mapped[str | None] = mapped_column(String(100))
    location: Mapped[str | None] = mapped_column(String(100))
    is_active: Mapped[bool] = mapped_column(default=True)
    criticality_level: Mapped[str | None] = mapped_column(String(20), default="medium")
    #: By its counter, as somebody has last entered it.
    running_hours: Mapped[float | None]
    specifications: Mapped[dict[str, Any] | None] = mapped_column(ExactJSON(none_as_null=True))
    name_key: Mapped[str | None] = key_of("name")
    type_key: Mapped[str | None] = key_of("type")
    location_key: Mapped[str | None] = key_of("location")
    manufacturer_key: Mapped[str | None] = key_of("manufacturer")


attach_triggers(Equipment)
