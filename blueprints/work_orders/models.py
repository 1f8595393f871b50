"""The work orders table, and the counter of their numbers for each year."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from extensions.database import Base, ExactJSON, UtcDateTime, list_indexes
from extensions.text_keys import SearchedRow, attach_triggers, key_of, search_indexes


class WorkOrder(SearchedRow):
    """Work to be done on a piece of equipment."""

    __tablename__ = "work_orders"
    __table_args__ = (
        # Not unique: a follower's copy may hold the same number from several vessels. On board, the counter
        # below assigns each number once.
        Index("ix_work_orders_wo_number", "wo_number"),
        # The dashboard counts unfinished work orders by priority, and shows the first ones.
        Index("ix_work_orders_pressing", "status", "priority", "created_at", "id"),
        *list_indexes(
            "work_orders",
            "equipment_id",
            "status",
            "priority",
            "assigned_crew_id",
            "planned_start_date",
            "planned_end_date",
            "schedule_id",
        ),
        *search_indexes("work_orders", "maintenance_type"),
    )
    searched = ("wo_number", "reason", "description", "maintenance_type")
    #: Statuses of what is outstanding, and of what is over.
    OPEN = ("open", "in_progress")
    OVER = ("completed", "cancelled")

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
    #: See `steps`; None if there are none.
    steps: Mapped[list[dict[str, Any]] | None] = mapped_column(ExactJSON(none_as_null=True))
    maintenance_type_key: Mapped[str | None] = key_of("maintenance_type")


attach_triggers(WorkOrder)


class WorkOrderCounter(Base):
    """The last number assigned to a work order in a year."""

    __tablename__ = "work_order_counters"

    year: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    last: Mapped[int]
