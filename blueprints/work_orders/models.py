"""The work orders table, and the numbers given out in each year."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from extensions.database import Base, Row, UtcDateTime, list_indexes


class WorkOrder(Row):
    """Work to be done on a piece of equipment."""

    __tablename__ = "work_orders"
    __table_args__ = (
        # Not unique: a copy of several vessels holds their numbers side by side. On board the counter
        # below gives each number once.
        Index("ix_work_orders_wo_number", "wo_number"),
        # The overview counts what is not finished by priority, and shows the first.
        Index("ix_work_orders_pressing", "status", "priority", "created_at", "id"),
        *list_indexes(
            "work_orders",
            "equipment_id",
            "status",
            "priority",
            "maintenance_type",
            "assigned_crew_id",
            "planned_start_date",
            "schedule_id",
        ),
    )

    wo_number: Mapped[str] = mapped_column(String(20))
    equipment_id: Mapped[str] = mapped_column(ForeignKey("equipment.id"))
    reason: Mapped[str] = mapped_column(String(500))
    description: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(20), default="open")
    priority: Mapped[int] = mapped_column(default=3)
    maintenance_type: Mapped[str | None] = mapped_column(String(50))
    assigned_crew_id: Mapped[str | None] = mapped_column(ForeignKey("crew.id"))
    estimated_hours: Mapped[float | None]
    actual_hours: Mapped[float | None]
    planned_start_date: Mapped[datetime | None] = mapped_column(UtcDateTime)
    planned_end_date: Mapped[datetime | None] = mapped_column(UtcDateTime)
    schedule_id: Mapped[str | None] = mapped_column(ForeignKey("maintenance_schedules.id"))


class WorkOrderCounter(Base):
    """The last number given to a work order in a year."""

    __tablename__ = "work_order_counters"

    year: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    last: Mapped[int]
