"""Operations on maintenance schedules."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from blueprints.common.idempotency import IdempotencyKey
from blueprints.common.resource import Resource, Written
from blueprints.equipment.models import Equipment
from blueprints.work_orders.models import WorkOrder
from blueprints.work_orders.service import work_orders
from extensions import db
from extensions.api import Errors, ProblemError

from .models import MaintenanceSchedule
from .people import settle_assignment
from .recurring import follow_interval, settle_hours
from .schemas import MaintenanceScheduleSchema


def settle(schedule: MaintenanceSchedule) -> Errors:
    """Keep the person and the name of the assignment consistent, and the hours at which it is due."""
    settle_assignment(schedule)
    follow_interval(schedule)
    if schedule.interval_hours is not None and schedule.due_hours is None:
        equipment = db.session.get(Equipment, schedule.equipment_id)
        settle_hours(schedule, None if equipment is None else equipment.running_hours)
    return {}


maintenance_schedules = Resource(
    MaintenanceSchedule, MaintenanceScheduleSchema, "maintenance schedule", settle=settle
)


def raise_work_order(
    schedule_id: str, data: Mapping[str, Any], key: IdempotencyKey | None = None
) -> Written[WorkOrder]:
    """Create the work order of a schedule; `data` overrides the schedule's fields.

    :raises ProblemError: there is no such schedule, or it already has a work order.
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
        "assigned_crew_id": schedule.assigned_crew_id,
        "estimated_hours": None if minutes is None else round(minutes / 60, 2),
        "planned_start_date": schedule.scheduled_date,
        "planned_end_date": (
            None if minutes is None else schedule.scheduled_date + timedelta(minutes=minutes)
        ),
    }
