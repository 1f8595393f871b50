"""Maintenance schedules as JSON."""

from __future__ import annotations

from flask_babel import lazy_gettext as lazy

from blueprints.common.fields import (
    Choice,
    Priority,
    Real,
    Reference,
    RowSchema,
    Text,
    Timestamp,
    Whole,
    example_row,
    shown,
)
from blueprints.work_orders.schemas import WorkOrderSchema

STATUSES = ("scheduled", "pending", "in_progress", "completed", "overdue", "cancelled")
MINUTES_IN_A_YEAR = 525_600


class MaintenanceScheduleSchema(RowSchema):
    """Maintenance that falls due on a date."""

    example = example_row(
        "5f0c3e1a-8c1d-4f0e-9b57-2f1f6d1c0a04",
        equipmentId="5f0c3e1a-8c1d-4f0e-9b57-2f1f6d1c0a01",
        scheduledDate="2026-12-01T08:00:00.000Z",
        maintenanceType="inspection",
        priority=3,
        estimatedDuration=90,
        description="Run the pump for an hour; read pressure and bearing temperature.",
        status="scheduled",
        assignedTo="Ada Berg",
        assignedCrewId="5f0c3e1a-8c1d-4f0e-9b57-2f1f6d1c0a02",
        workOrderId=None,
        intervalDays=90,
        intervalHours=500.0,
        dueHours=12980.5,
        previousScheduleId=None,
    )
    patch_example = {"scheduledDate": "2026-12-08T08:00:00.000Z"}

    equipment_id = Reference(required=True, metadata=shown(lazy("Equipment")))
    scheduled_date = Timestamp(required=True, metadata=shown(lazy("Due"), shape="due"))
    maintenance_type = Text(
        50,
        required=True,
        metadata=shown(lazy("Maintenance"), shape="spaced", hint=lazy("oil change")),
    )
    priority = Priority()
    estimated_duration = Whole(
        0, MINUTES_IN_A_YEAR, allow_none=True, metadata=shown(lazy("Minutes"))
    )
    description = Text(5000, metadata=shown(lazy("Description")))
    status = Choice(STATUSES, metadata=shown(lazy("Status"), shape="status"))
    # The person's name when the schedule was assigned; a client that knows no ids writes it, and any other name.
    assigned_to = Text(200, metadata=shown(lazy("Name at assignment")))
    assigned_crew_id = Reference(metadata=shown(lazy("Assigned to")))
    work_order_id = Reference(metadata=shown(lazy("Work order")))
    interval_days = Whole(1, 36_500, allow_none=True, metadata=shown(lazy("Every days")))
    interval_hours = Real(1, 1e6, allow_none=True, metadata=shown(lazy("Every running hours")))
    # Set when a schedule with an interval of hours is created or planned; a client may set it, too.
    due_hours = Real(0, 1e7, allow_none=True, metadata=shown(lazy("Due at running hours")))
    previous_schedule_id = Reference(dump_only=True)


class ScheduledWorkOrderSchema(WorkOrderSchema):
    """Fields of a schedule's work order that override the schedule's."""

    example = {"priority": 1, "plannedStartDate": "2026-12-01T08:00:00.000Z"}

    class Meta:
        exclude = ("equipment_id", "schedule_id")
