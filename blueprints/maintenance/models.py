"""The maintenance schedules table."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from extensions.database import UtcDateTime, list_indexes
from extensions.text_keys import SearchedRow, attach_triggers, key_of, search_indexes


class MaintenanceSchedule(SearchedRow):
    """Maintenance that falls due on a date."""

    __tablename__ = "maintenance_schedules"
    __table_args__ = (
        *list_indexes(
            "maintenance_schedules",
            "equipment_id",
            "scheduled_date",
            "status",
            "priority",
            "assigned_crew_id",
            "work_order_id",
        ),
        # Not unique: by the version of its row a schedule is completed once, and ashore the rows of cloned disks may meet.
        Index("ix_maintenance_schedules_previous_schedule_id", "previous_schedule_id"),
        *search_indexes("maintenance_schedules", "maintenance_type", "assigned_to"),
    )
    searched = ("maintenance_type", "description", "assigned_to")
    #: Statuses of what is outstanding, and of what is over.
    OPEN = ("scheduled", "pending", "in_progress", "overdue")
    OVER = ("completed", "cancelled")

    equipment_id: Mapped[str] = mapped_column(ForeignKey("equipment.id"))
    scheduled_date: Mapped[datetime] = mapped_column(UtcDateTime)
    maintenance_type: Mapped[str] = mapped_column(String(50))
    priority: Mapped[int] = mapped_column(default=3)
    #: Minutes.
    estimated_duration: Mapped[int | None]
    description: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(20), default="scheduled")
    #: The name of the person when the schedule was assigned; of a client that knows no ids, any name.
    assigned_to: Mapped[str | None] = mapped_column(String(200))
    assigned_crew_id: Mapped[str | None] = mapped_column(
        ForeignKey("crew.id", name="fk_maintenance_schedules_assigned_crew_id_crew")
    )
    #: Completing it plans the next one so many days, and running hours of the equipment, later; whichever comes first.
    interval_days: Mapped[int | None]
    interval_hours: Mapped[float | None]
    #: Running hours of the equipment at which it is due; None if it is due by date alone.
    due_hours: Mapped[float | None]
    #: The schedule whose completion has planned this one. No foreign key: that one may be deleted.
    previous_schedule_id: Mapped[str | None] = mapped_column(String(36))
    # The two tables refer to each other, so one of the foreign keys is created after both tables.
    work_order_id: Mapped[str | None] = mapped_column(
        ForeignKey(
            "work_orders.id",
            use_alter=True,
            name="fk_maintenance_schedules_work_order_id_work_orders",
        )
    )
    maintenance_type_key: Mapped[str | None] = key_of("maintenance_type")
    assigned_to_key: Mapped[str | None] = key_of("assigned_to")


attach_triggers(MaintenanceSchedule)
