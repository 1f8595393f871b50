"""Related rows: a piece of equipment's history, a person's work, a schedule's orders."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from flask import url_for
from msgspec import Struct, field
from sqlalchemy import Select, select

from blueprints.alerts.models import Alert
from blueprints.maintenance.models import MaintenanceSchedule
from blueprints.work_orders.models import WorkOrder
from extensions import db
from extensions.database import Row
from extensions.text_keys import equals_text

from .choices import OPEN_ORDER, OPEN_SCHEDULE, UNFINISHED
from .i18n import _
from .kinds import KINDS, Kind
from .lists import Item, items

#: Maximum number of rows of one kind in a history; the lists show the rest.
MOST = 20
#: Further query arguments of the lists that show a complete history.
_EVERYTHING: dict[str, dict[str, Any]] = {
    "work-orders": {},
    "alerts": {},
    "schedules": {"status": ""},
}


class Section(Struct, frozen=True):
    """Rows under a heading."""

    id: str
    title: str
    items: list[Item]
    #: The text shown if there are none.
    none: str = ""
    #: Whether the rows are of several kinds, ordered by time.
    mixed: bool = False
    #: Links to the complete lists: (text, URL).
    more: list[tuple[str, str]] = field(default_factory=list)


def related(kind: Kind, row: Row) -> list[Section]:
    """Return the sections of rows that are related to a row."""
    of_kind = {
        "equipment": _of_equipment,
        "crew": _of_crew,
        "schedules": _of_schedule,
        "alerts": _of_alert,
    }
    return of_kind[kind.slug](row) if kind.slug in of_kind else []


def moment_of(row: Row) -> datetime:
    """Return the time at which a history shows a row."""
    return row.scheduled_date if isinstance(row, MaintenanceSchedule) else row.created_at


def _of_equipment(row: Any) -> list[Section]:
    schedule, order, alert = MaintenanceSchedule, WorkOrder, Alert
    coming = (
        select(schedule)
        .where(schedule.equipment_id == row.id, schedule.status.in_(OPEN_SCHEDULE))
        .order_by(schedule.scheduled_date, schedule.id)
    )
    past: list[Item] = []
    for slug, query in (
        ("work-orders", _newest(select(order).where(order.equipment_id == row.id), order)),
        ("alerts", _newest(select(alert).where(alert.equipment_id == row.id), alert)),
        (
            "schedules",
            select(schedule)
            .where(schedule.equipment_id == row.id, schedule.status.not_in(OPEN_SCHEDULE))
            .order_by(schedule.scheduled_date.desc(), schedule.id),
        ),
    ):
        past += _cards(slug, query)
    past.sort(key=lambda entry: moment_of(entry.row), reverse=True)
    everything = [
        (str(KINDS[slug].title), url_for("ui.rows", kind=slug, equipment=row.id, **query))
        for slug, query in _EVERYTHING.items()
    ]
    return [
        Section(
            "coming",
            _("Upcoming maintenance"),
            _cards("schedules", coming),
            none=_("No maintenance is scheduled."),
        ),
        Section(
            "history",
            _("History"),
            past,
            none=_("No history yet."),
            mixed=True,
            more=everything,
        ),
    ]


def _of_crew(row: Any) -> list[Section]:
    order, schedule = WorkOrder, MaintenanceSchedule
    own = select(order).where(order.assigned_crew_id == row.id)
    unfinished = own.where(order.status.in_(OPEN_ORDER)).order_by(
        order.priority, order.created_at, order.id
    )
    finished = _newest(own.where(order.status.not_in(OPEN_ORDER)), order)
    by_name = schedule.assigned_crew_id.is_(None) & equals_text(schedule, "assigned_to", row.name)
    assigned = (schedule.assigned_crew_id == row.id) | by_name
    due = (
        select(schedule)
        .where(assigned, schedule.status.in_(OPEN_SCHEDULE))
        .order_by(schedule.scheduled_date, schedule.id)
    )
    every = url_for("ui.rows", kind="work-orders", crew=row.id)
    return [
        Section(
            "assigned",
            _("Outstanding work orders"),
            _cards("work-orders", unfinished),
            none=_("No work orders are assigned."),
            more=[(_("View all"), url_for("ui.rows", kind="work-orders", crew=row.id, status=UNFINISHED))],
        ),
        Section("due", _("Outstanding maintenance"), _cards("schedules", due), none=_("None.")),
        Section(
            "finished",
            _("Closed work orders"),
            _cards("work-orders", finished),
            none=_("None yet."),
            more=[(_("View all"), every)],
        ),
    ]  # fmt: skip


def _of_schedule(row: Any) -> list[Section]:
    query = _newest(select(WorkOrder).where(WorkOrder.schedule_id == row.id), WorkOrder)
    found = _cards("work-orders", query)
    return [Section("orders", _("Work orders"), found)] if found else []


def _of_alert(row: Any) -> list[Section]:
    query = select(WorkOrder).where(
        WorkOrder.equipment_id == row.equipment_id, WorkOrder.status.in_(OPEN_ORDER)
    )
    return [
        Section(
            "orders",
            _("Outstanding work orders for this equipment"),
            _cards("work-orders", _newest(query, WorkOrder)),
            none=_("None."),
        )
    ]


def _newest(query: Select[Any], model: type[Row]) -> Select[Any]:
    return query.order_by(model.created_at.desc(), model.id.desc())


def _cards(slug: str, query: Select[Any]) -> list[Item]:
    rows: Sequence[Any] = db.session.scalars(query.limit(MOST)).all()
    return items(KINDS[slug], rows, "li")
