"""What can be done with maintenance schedules."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from blueprints.common.idempotency import IdempotencyKey
from blueprints.common.resource import Resource, Written
from blueprints.work_orders.models import WorkOrder
from blueprints.work_orders.service import work_orders
from extensions.api import ProblemError

from .models import MaintenanceSchedule
from .schemas import MaintenanceScheduleSchema

maintenance_schedules = Resource(
    MaintenanceSchedule,
    MaintenanceScheduleSchema,
    "maintenance schedule",
    ("maintenance_type", "description", "assigned_to"),
)


def raise_work_order(
    schedule_id: str, data: Mapping[str, Any], key: IdempotencyKey | None = None
) -> Written[WorkOrder]:
    """Create the work order of a schedule; `data` goes before what the schedule says.

    :raises ProblemError: there is no such schedule, or it has its work order.
    """
    schedule = maintenance_schedules.get(schedule_id)
    if key and (earlier := work_orders.replay(key)):
        return earlier
    if schedule.work_order_id:
        raise ProblemError(409, f"The schedule has its work order: {schedule.work_order_id}.")

    def link(order: WorkOrder) -> None:
        schedule.work_order_id = order.id

    return work_orders.create({**_order_of(schedule), **data}, key, then=link)


def _order_of(schedule: MaintenanceSchedule) -> dict[str, Any]:
    minutes = schedule.estimated_duration
    return {
        "equipment_id": schedule.equipment_id,
        "schedule_id": schedule.id,
        "reason": f"Scheduled maintenance: {schedule.maintenance_type}",
        "description": schedule.description,
        "priority": schedule.priority,
        "maintenance_type": schedule.maintenance_type,
        "estimated_hours": None if minutes is None else round(minutes / 60, 2),
        "planned_start_date": schedule.scheduled_date,
        "planned_end_date": (
            None if minutes is None else schedule.scheduled_date + timedelta(minutes=minutes)
        ),
    }
