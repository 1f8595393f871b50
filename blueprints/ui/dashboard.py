"""The dashboard: outstanding work on board, the most urgent first."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any

from msgspec import Struct
from sqlalchemy import bindparam, case, func, literal_column, select, union_all

from blueprints.alerts.models import Alert
from blueprints.common.fields import Priority
from blueprints.maintenance.models import MaintenanceSchedule
from blueprints.work_orders.models import WorkOrder
from extensions import db
from extensions.database import UtcDateTime, utcnow

from . import who
from .choices import OPEN_ORDER, OPEN_SCHEDULE, hours_reached, overdue_schedules
from .kinds import KINDS
from .lists import Item, items
from .once import once_a_page

#: Maximum number of rows of each kind on the dashboard; the lists show the rest.
SHOWN = 8
SOON = timedelta(days=7)


class Counts(Struct, frozen=True):
    """The figures at the top."""

    overdue: int
    #: Of these, what only running hours make so: by its date it is due after `SOON`.
    overdue_by_hours: int
    #: Due within `SOON`, without the overdue.
    due: int
    #: Unfinished work orders by priority, and in total.
    orders: dict[int, int]
    all_orders: int
    critical: int
    alerts: int


def counts() -> Counts:
    """Count the outstanding work; once a page."""
    return once_a_page("counts", _count)


def _count() -> Counts:
    now = utcnow()
    due, overdue = 0, {0: 0, 1: 0}
    orders = dict.fromkeys(Priority.LEVELS, 0)
    severities: dict[str, int] = {}
    for name, priority, severity, count in db.session.execute(
        _counting(), {"now": now, "soon": now + SOON}
    ):
        if name == "orders":
            orders[priority] = count
        elif name == "alerts":
            severities[severity] = count
        elif name == "overdue":
            overdue[priority] = count
        else:
            due = count
    return Counts(
        sum(overdue.values()),
        overdue[1],
        due,
        orders,
        sum(orders.values()),
        severities.get("critical", 0),
        sum(severities.values()),
    )


# One statement, made once: to make one takes SQLAlchemy longer than to execute it.
@cache
def _counting() -> Any:
    schedule, order, alert = MaintenanceSchedule, WorkOrder, Alert
    now, soon = bindparam("now", type_=UtcDateTime), bindparam("soon", type_=UtcDateTime)
    no_priority: Any = literal_column("0")
    is_later = case((schedule.scheduled_date >= soon, 1), else_=0)
    no_severity: Any = literal_column("''")

    def count(name: str, priority: Any = no_priority, severity: Any = no_severity) -> Any:
        return select(literal_column(f"'{name}'"), priority, severity, func.count())

    return union_all(
        count("overdue", priority=is_later).where(overdue_schedules(now)).group_by(is_later),
        count("due").where(
            schedule.status.in_(OPEN_SCHEDULE),
            schedule.scheduled_date >= now,
            schedule.scheduled_date < soon,
        ),
        count("orders", priority=order.priority)
        .where(order.status.in_(OPEN_ORDER))
        .group_by(order.priority),
        count("alerts", severity=alert.alert_type)
        .where(alert.acknowledged.is_(False))
        .group_by(alert.alert_type),
    )


class Mine(Struct, frozen=True):
    """The open work of the person at the tablet."""

    #: Their id and name.
    crew_id: str
    name: str
    orders: list[Item]
    schedules: list[Item]


def mine() -> Mine | None:
    """Return the open work of the person at the tablet; None if it is not known who that is."""
    member = who.member()
    if member is None:
        return None
    order, schedule = WorkOrder, MaintenanceSchedule
    orders = (
        select(order)
        .where(order.assigned_crew_id == member.id, order.status.in_(OPEN_ORDER))
        .order_by(order.priority, order.created_at, order.id)
        .limit(SHOWN)
    )
    schedules = (
        select(schedule)
        .where(schedule.assigned_crew_id == member.id, schedule.status.in_(OPEN_SCHEDULE))
        .order_by(schedule.scheduled_date, schedule.id)
        .limit(SHOWN)
    )
    return Mine(
        member.id,
        member.name,
        items(KINDS["work-orders"], db.session.scalars(orders).all(), "li"),
        items(KINDS["schedules"], db.session.scalars(schedules).all(), "li"),
    )


def pressing_orders() -> list[Item]:
    """Return unfinished work orders by priority, then the oldest first."""
    order = WorkOrder
    found: list[WorkOrder] = []
    # One status at a time, so that an index provides the order.
    for status in OPEN_ORDER:
        query = (
            select(order)
            .where(order.status == status)
            .order_by(order.priority, order.created_at, order.id)
            .limit(SHOWN)
        )
        found += db.session.scalars(query)
    found.sort(key=lambda row: (row.priority, row.created_at, row.id))
    return items(KINDS["work-orders"], found[:SHOWN], "li")


def pressing_alerts() -> list[Item]:
    """Return unacknowledged alerts, the newest first."""
    query = (
        select(Alert)
        .where(Alert.acknowledged.is_(False))
        .order_by(Alert.created_at.desc(), Alert.id.desc())
        .limit(SHOWN)
    )
    return items(KINDS["alerts"], db.session.scalars(query).all(), "li")


def pressing_schedules() -> list[Item]:
    """Return maintenance that is overdue or due soon: first what only running hours make so, then the earliest."""
    schedule, soon = MaintenanceSchedule, utcnow() + SOON
    found: list[MaintenanceSchedule] = []
    query = (
        select(schedule)
        .where(schedule.status.in_(OPEN_SCHEDULE))
        .order_by(schedule.scheduled_date, schedule.id)
        .limit(SHOWN)
    )
    if counts().overdue_by_hours:  # to look for it, all schedules are read
        found += db.session.scalars(query.where(schedule.scheduled_date >= soon, hours_reached()))
    if len(found) < SHOWN:
        found += db.session.scalars(query.where(schedule.scheduled_date < soon))
    return items(KINDS["schedules"], found[:SHOWN], "li")
