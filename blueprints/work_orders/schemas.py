"""Work orders as JSON."""

from __future__ import annotations

from blueprints.common.fields import (
    Choice,
    Real,
    Reference,
    RowSchema,
    Text,
    Timestamp,
    Whole,
    example_row,
)

STATUSES = ("open", "in_progress", "completed", "cancelled")
HOURS = (0, 10_000)


class WorkOrderSchema(RowSchema):
    """A work order."""

    example = example_row(
        "5f0c3e1a-8c1d-4f0e-9b57-2f1f6d1c0a03",
        woNumber="WO-2026-0001",
        equipmentId="5f0c3e1a-8c1d-4f0e-9b57-2f1f6d1c0a01",
        reason="Bearing runs hot",
        description="Replace the bearing on the drive end.",
        status="open",
        priority=2,
        maintenanceType="corrective",
        assignedCrewId="5f0c3e1a-8c1d-4f0e-9b57-2f1f6d1c0a02",
        estimatedHours=4.5,
        actualHours=None,
        plannedStartDate="2026-11-23T06:00:00.000Z",
        plannedEndDate=None,
        scheduleId=None,
    )
    patch_example = {"status": "in_progress", "actualHours": 1.5}

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
