"""Maintenance schedules as JSON."""

from __future__ import annotations

from blueprints.common.fields import (
    Choice,
    Reference,
    RowSchema,
    Text,
    Timestamp,
    Whole,
    example_row,
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
        workOrderId=None,
    )
    patch_example = {"scheduledDate": "2026-12-08T08:00:00.000Z"}

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

    example = {"priority": 1, "plannedStartDate": "2026-12-01T08:00:00.000Z"}

    class Meta:
        exclude = ("equipment_id", "schedule_id")
