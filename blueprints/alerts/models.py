"""The alerts table."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from extensions.database import UtcDateTime, list_indexes
from extensions.text_keys import SearchedRow, attach_triggers, key_of, search_indexes


class Alert(SearchedRow):
    """A sensor's value beyond its threshold."""

    __tablename__ = "alerts"
    __table_args__ = (
        *list_indexes("alerts", "equipment_id", "alert_type", "acknowledged"),
        *search_indexes("alerts", "sensor_type"),
    )
    searched = ("message", "sensor_type", "acknowledged_by")

    equipment_id: Mapped[str] = mapped_column(ForeignKey("equipment.id"))
    sensor_type: Mapped[str] = mapped_column(String(100))
    alert_type: Mapped[str] = mapped_column(String(20))
    message: Mapped[str] = mapped_column(String(1000))
    value: Mapped[float]
    threshold: Mapped[float]
    acknowledged: Mapped[bool] = mapped_column(default=False)
    acknowledged_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    acknowledged_by: Mapped[str | None] = mapped_column(String(200))
    sensor_type_key: Mapped[str | None] = key_of("sensor_type")


attach_triggers(Alert)
