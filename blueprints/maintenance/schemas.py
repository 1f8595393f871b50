"""Maintenance schedules as JSON."""

from __future__ import annotations

from blueprints.common.fields import Choice, Reference, RowSchema, Text, Timestamp, Whole
from blueprints.work_orders.schemas import WorkOrderSchema

STATUSES = ("scheduled", "pending", "in_progress", "completed", "overdue", "cancelled")
MINUTES_IN_A_YEAR = 525_600


class MaintenanceScheduleSchema(RowSchema):
    """Maintenance that falls due on a date."""

    equipment_id = Reference(required=True)
    scheduled_date = Timestamp(required=True)
    maintenance_type = Text(50, required=True)
    priority = Whole(1, 5)
    estimated_duration = Whole(0, MINUTES_IN_A_YEAR, allow_none=True)
    description = Text(5000)
    status = Choice(STATUSES)
    assigned_to = Text(200)
    work_order_id = Reference()


class ScheduledWorkOrderSchema(WorkOrderSchema):
    """What a schedule's work order is to have otherwise than the schedule says."""

    class Meta:
        exclude = ("equipment_id", "schedule_id")
