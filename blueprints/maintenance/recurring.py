"""Recurring maintenance: completing a schedule plans the next one, in the same transaction."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from flask import current_app, has_app_context
from sqlalchemy import event, exists, inspect, select
from sqlalchemy.orm import Session

from blueprints.equipment.models import Equipment
from extensions.database import new_id, utcnow

# Imported first, so that its listener is called before the one below: it completes the schedules of work orders.
from . import following  # noqa: F401  # for its listener
from .models import MaintenanceSchedule

#: What the next schedule has of the one before it.
_KEPT = (
    "equipment_id", "maintenance_type", "priority", "estimated_duration", "description", "assigned_to",
    "assigned_crew_id", "interval_days", "interval_hours",
)  # fmt: skip


def settle_hours(schedule: MaintenanceSchedule, running_hours: float | None) -> None:
    """Give a schedule with an interval of running hours the hours at which it is due, unless it has some.

    :param running_hours: of its equipment; without them it is due by date alone, until somebody enters them.
    """
    interval = schedule.interval_hours
    if interval is not None and running_hours is not None and schedule.due_hours is None:
        schedule.due_hours = running_hours + interval


def follow_interval(schedule: MaintenanceSchedule) -> None:
    """Move the hours at which a schedule is due with its interval, unless both were given."""
    state = inspect(schedule).attrs
    changed = state["interval_hours"].history
    if not changed.has_changes() or state["due_hours"].history.has_changes():
        return
    before = changed.deleted[0] if changed.deleted else None
    if schedule.interval_hours is None:
        schedule.due_hours = None
    elif before is not None and schedule.due_hours is not None:
        schedule.due_hours += schedule.interval_hours - before


def next_of(
    schedule: MaintenanceSchedule, done: datetime, running_hours: float | None
) -> MaintenanceSchedule:
    """Return the schedule that follows one that was done."""
    found = MaintenanceSchedule(id=new_id(), status="scheduled", previous_schedule_id=schedule.id)
    for name in _KEPT:
        setattr(found, name, getattr(schedule, name))
    found.scheduled_date = _date_after(schedule, done)
    settle_hours(found, running_hours)
    return found


def _date_after(schedule: MaintenanceSchedule, done: datetime) -> datetime:
    """Return when the next one is due: from the day it was done, at the time of day that it had.

    Where only running hours count, it is the first day on which they can have been reached.
    """
    days = schedule.interval_days
    if days is None:
        assert schedule.interval_hours is not None
        days = max(1, round(schedule.interval_hours / 24))
    # By the ship's clock: in UTC another day may have begun, and the hour would move when clocks are set to winter time.
    zone = _ships_zone()
    day = done.astimezone(zone).date() + timedelta(days=days)
    at = schedule.scheduled_date.astimezone(zone).time()
    return datetime.combine(day, at, zone).astimezone(UTC)


def _ships_zone() -> tzinfo:
    return ZoneInfo(current_app.config["SHIP_TIMEZONE"]) if has_app_context() else UTC


def _settle_open(session: Session, equipment: Equipment) -> None:
    """Give the open schedules of a piece of equipment, whose hours are known now, those at which they are due."""
    with session.no_autoflush:
        schedules = session.scalars(
            select(MaintenanceSchedule).where(
                MaintenanceSchedule.equipment_id == equipment.id,
                MaintenanceSchedule.interval_hours.is_not(None),
                MaintenanceSchedule.due_hours.is_(None),
                MaintenanceSchedule.status.not_in(MaintenanceSchedule.OVER),
            )
        ).all()
    for schedule in schedules:
        settle_hours(schedule, equipment.running_hours)


def _plan(session: Session, _context: Any, _instances: Any) -> None:
    """Plan what follows the recurring schedules that a flush completes; note hours that are entered."""
    for row in session.dirty:
        if isinstance(row, Equipment) and inspect(row).attrs["running_hours"].history.has_changes():
            _settle_open(session, row)
    completed = [
        row
        for row in [*session.new, *session.dirty]
        if isinstance(row, MaintenanceSchedule)
        and row.status == "completed"
        and (row.interval_days is not None or row.interval_hours is not None)
        and inspect(row).attrs["status"].history.has_changes()
    ]
    for row in completed:
        with session.no_autoflush:
            planned = exists().where(MaintenanceSchedule.previous_schedule_id == row.id)
            if session.scalar(select(planned)):
                continue  # it was reopened, and is completed again
            hours = session.scalar(
                select(Equipment.running_hours).where(Equipment.id == row.equipment_id)
            )
            session.add(next_of(row, utcnow(), hours))


event.listen(Session, "before_flush", _plan)
