"""Work orders as JSON."""

from __future__ import annotations

from flask_babel import lazy_gettext as lazy

from blueprints.common.fields import (
    Choice,
    Priority,
    Real,
    Reference,
    RowSchema,
    Steps,
    Text,
    Timestamp,
    example_row,
    shown,
)

from .models import WorkOrder

STATUSES = (*WorkOrder.OPEN, *WorkOrder.OVER)
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
        steps=[
            {"text": "Lock out and tag the pump", "done": True},
            {"text": "Measure the clearance", "done": False},
        ],
    )
    patch_example = {"status": "in_progress", "actualHours": 1.5}

    wo_number = Text(20, dump_only=True, metadata=shown(lazy("Number"), shape="code"))
    equipment_id = Reference(required=True, metadata=shown(lazy("Equipment")))
    reason = Text(
        500, required=True, metadata=shown(lazy("Reason"), hint=lazy("The problem, in one line"))
    )
    description = Text(5000, metadata=shown(lazy("Description")))
    status = Choice(STATUSES, metadata=shown(lazy("Status"), shape="status"))
    priority = Priority()
    maintenance_type = Text(50, metadata=shown(lazy("Type"), hint=lazy("corrective")))
    assigned_crew_id = Reference(metadata=shown(lazy("Assigned to")))
    estimated_hours = Real(*HOURS, allow_none=True, metadata=shown(lazy("Estimated hours")))
    actual_hours = Real(*HOURS, allow_none=True, metadata=shown(lazy("Actual hours")))
    planned_start_date = Timestamp(allow_none=True, metadata=shown(lazy("Planned start")))
    planned_end_date = Timestamp(allow_none=True, metadata=shown(lazy("Planned end")))
    schedule_id = Reference(metadata=shown(lazy("Schedule")))
    steps = Steps(
        metadata=shown(lazy("Steps"), hint=lazy("Lock out and tag the pump")),
    )
