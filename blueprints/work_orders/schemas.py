"""Work orders as JSON."""

from __future__ import annotations

from blueprints.common.fields import Choice, Real, Reference, RowSchema, Text, Timestamp, Whole

STATUSES = ("open", "in_progress", "completed", "cancelled")
HOURS = (0, 10_000)


class WorkOrderSchema(RowSchema):
    """A work order."""

    wo_number = Text(20, dump_only=True)
    equipment_id = Reference(required=True)
    reason = Text(500, required=True)
    description = Text(5000)
    status = Choice(STATUSES)
    priority = Whole(1, 5)
    maintenance_type = Text(50)
    assigned_crew_id = Reference()
    estimated_hours = Real(*HOURS, allow_none=True)
    actual_hours = Real(*HOURS, allow_none=True)
    planned_start_date = Timestamp(allow_none=True)
    planned_end_date = Timestamp(allow_none=True)
    schedule_id = Reference()
