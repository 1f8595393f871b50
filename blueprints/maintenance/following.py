"""A schedule follows its work order: completed with it, and free again when the order is cancelled or deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import and_, event, inspect, or_, select
from sqlalchemy.orm import Session

from blueprints.work_orders.models import WorkOrder

from .models import MaintenanceSchedule


def free_schedules(session: Session, order: WorkOrder) -> None:
    """Free the schedules of a work order that is about to be deleted, so that another can be created."""
    for schedule in _schedules_of(session, order):
        _free(schedule, order)


def _follow(session: Session, _context: Any, _instances: Any) -> None:
    """Let schedules follow the work orders of which a flush writes another status."""
    for row in [*session.new, *session.dirty]:
        if not isinstance(row, WorkOrder):
            continue
        status = inspect(row).attrs["status"].history
        if status.has_changes() and isinstance(row.status, str):
            before = status.deleted[0] if status.deleted else None
            for schedule in _schedules_of(session, row):
                _follow_status(schedule, row, before)


def _follow_status(schedule: MaintenanceSchedule, order: WorkOrder, before: str | None) -> None:
    """Bring a schedule to what its work order's new status means for it.

    :param before: the order's status before.
    """
    if order.status == "completed":
        if schedule.status != "cancelled":
            schedule.status = "completed"
        return
    if before == "completed" and schedule.status == "completed":
        schedule.status = "scheduled"
    if order.status == "cancelled":
        _free(schedule, order)
    elif before == "cancelled" and schedule.status not in MaintenanceSchedule.OVER:
        schedule.work_order_id = order.id


def _free(schedule: MaintenanceSchedule, order: WorkOrder) -> None:
    if schedule.work_order_id == order.id:
        schedule.work_order_id = None
    if schedule.status == "in_progress":
        schedule.status = "scheduled"


def _schedules_of(session: Session, order: WorkOrder) -> Sequence[MaintenanceSchedule]:
    """Return the schedules of an order: those that refer to it, and the one that it refers to, if that has no other."""
    schedule = MaintenanceSchedule
    conditions = []
    if order.id is not None:  # a new row may get its id in the flush: nothing refers to it yet
        conditions.append(schedule.work_order_id == order.id)
    if order.schedule_id is not None:
        conditions.append(and_(schedule.id == order.schedule_id, schedule.work_order_id.is_(None)))
    if not conditions:
        return []
    with session.no_autoflush:
        return session.scalars(select(schedule).where(or_(*conditions))).all()


event.listen(Session, "before_flush", _follow)
