"""The equipment table."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, String
from sqlalchemy.orm import Mapped, mapped_column

from extensions.database import Row, list_indexes


class Equipment(Row):
    """A piece of equipment on board."""

    __tablename__ = "equipment"
    __table_args__ = list_indexes(
        "equipment", "type", "manufacturer", "location", "is_active", "criticality_level"
    )

    name: Mapped[str] = mapped_column(String(200))
    type: Mapped[str] = mapped_column(String(100))
    manufacturer: Mapped[str | None] = mapped_column(String(100))
    model: Mapped[str | None] = mapped_column(String(100))
    serial_number: Mapped[str | None] = mapped_column(String(100))
    location: Mapped[str | None] = mapped_column(String(100))
    is_active: Mapped[bool] = mapped_column(default=True)
    criticality_level: Mapped[str | None] = mapped_column(String(20), default="medium")
    specifications: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
