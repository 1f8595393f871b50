"""The overview: what is to be done on board, the most pressing first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select

from blueprints.alerts.models import Alert
from blueprints.maintenance.models import MaintenanceSchedule
from blueprints.work_orders.models import WorkOrder
from extensions import db
from extensions.database import utcnow

from .kinds import KINDS, OPEN_ORDER, OPEN_SCHEDULE, PRIORITIES
from .lists import Item, items

#: Rows of a kind that the overview shows; the lists have the rest.
SHOWN = 8
SOON = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Counts:
    """The figures at the top."""

    overdue: int
    #: Due within `SOON`, the overdue not among them.
    due: int
    #: Unfinished work orders by priority, and in all.
    orders: dict[int, int]
    all_orders: int
    critical: int
    alerts: int


def counts() -> Counts:
    """Return how much there is to do."""
    now = utcnow()
    schedule, order, alert = MaintenanceSchedule, WorkOrder, Alert
    open_schedules = select(func.count()).where(schedule.status.in_(OPEN_SCHEDULE))
    overdue = db.session.scalar(open_schedules.where(schedule.scheduled_date < now)) or 0
    due = db.session.scalar(
        open_schedules.where(schedule.scheduled_date >= now, schedule.scheduled_date < now + SOON)
    )
    by_priority = (
        select(order.priority, func.count())
        .where(order.status.in_(OPEN_ORDER))
        .group_by(order.priority)
    )
    orders = dict.fromkeys(PRIORITIES, 0) | dict(db.session.execute(by_priority).all())
    by_severity = (
        select(alert.alert_type, func.count())
        .where(alert.acknowledged.is_(False))
        .group_by(alert.alert_type)
    )
    severities = dict(db.session.execute(by_severity).all())
    return Counts(
        overdue,
        due or 0,
        orders,
        sum(orders.values()),
        severities.get("critical", 0),
        sum(severities.values()),
    )


def pressing_orders() -> list[Item]:
    """Return unfinished work orders, by priority, then the oldest."""
    order = WorkOrder
    found: list[WorkOrder] = []
    # One status at a time, so that an index has the order.
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
    """Return alerts that nobody has acknowledged, the newest first."""
    query = (
        select(Alert)
        .where(Alert.acknowledged.is_(False))
        .order_by(Alert.created_at.desc(), Alert.id.desc())
        .limit(SHOWN)
    )
    return items(KINDS["alerts"], db.session.scalars(query).all(), "li")


def pressing_schedules() -> list[Item]:
    """Return maintenance that is overdue or due soon, the earliest first."""
    schedule = MaintenanceSchedule
    query = (
        select(schedule)
        .where(schedule.status.in_(OPEN_SCHEDULE), schedule.scheduled_date < utcnow() + SOON)
        .order_by(schedule.scheduled_date, schedule.id)
        .limit(SHOWN)
    )
    return items(KINDS["schedules"], db.session.scalars(query).all(), "li")
