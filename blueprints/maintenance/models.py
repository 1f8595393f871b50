"""The maintenance schedules table."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from extensions.database import Row, UtcDateTime, list_indexes


class MaintenanceSchedule(Row):
    """Maintenance that falls due on a date."""

    __tablename__ = "maintenance_schedules"
    __table_args__ = list_indexes(
        "maintenance_schedules",
        "equipment_id",
        "scheduled_date",
        "status",
        "priority",
        "maintenance_type",
        "assigned_to",
        "work_order_id",
    )

    equipment_id: Mapped[str] = mapped_column(ForeignKey("equipment.id"))
    scheduled_date: Mapped[datetime] = mapped_column(UtcDateTime)
    maintenance_type: Mapped[str] = mapped_column(String(50))
    priority: Mapped[int] = mapped_column(default=3)
    #: Minutes.
    estimated_duration: Mapped[int | None]
    description: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(20), default="scheduled")
    assigned_to: Mapped[str | None] = mapped_column(String(200))
    # The two tables refer to each other, so one of the references is made after both tables.
    work_order_id: Mapped[str | None] = mapped_column(
        ForeignKey(
            "work_orders.id",
            use_alter=True,
            name="fk_maintenance_schedules_work_order_id_work_orders",
        )
    )
