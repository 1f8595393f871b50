"""`/calendar`: maintenance and work orders by day, a month or a week at a time, in the ship's zone."""

from __future__ import annotations

import calendar as weeks
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

from babel.dates import format_date, get_day_names
from flask import request
from flask_babel import get_locale, get_timezone
from msgspec import Struct
from sqlalchemy import and_, or_, select

from blueprints.common.fields import EARLIEST, LATEST, is_id
from blueprints.maintenance.models import MaintenanceSchedule
from blueprints.work_orders.models import WorkOrder
from extensions import db
from extensions.api import InvalidError

from .choices import Offered, crew_offered, equipment_offered, is_overdue_order, is_overdue_schedule
from .i18n import moment_of
from .kinds import KINDS, Kind, names
from .layout import Answer, blueprint, page, urls_of_rows

#: Rows of each kind that are shown at most.
MOST = 1000
#: Entries of a day in a month; the week shows all.
MOST_OF_DAY = 5
#: The times by which rows are ordered.
_TIMES = {
    "schedules": ("scheduled_date",),
    "work-orders": ("planned_start_date", "planned_end_date"),
}
#: What tells whether a row is overdue, beside its times.
_FOR_OVERDUE: Mapping[str, tuple[str, ...]] = {
    "schedules": ("due_hours", "interval_days", "interval_hours"),
    "work-orders": (),
}
_IS_OVERDUE: Mapping[str, Callable[[Any], bool]] = {
    "schedules": is_overdue_schedule,
    "work-orders": is_overdue_order,
}
_MONTH = re.compile(r"(\d{4})-(\d{2})")
_WEEK = re.compile(r"(\d{4})-W(\d{2})")


class Entry(Struct, frozen=True):
    """A row on its day."""

    #: The address of its page.
    url: str
    name: str
    equipment: str
    is_overdue: bool
    is_done: bool


class Place(NamedTuple):
    """When a row is due; nothing of the row is loaded yet."""

    at: datetime
    #: Of its kind.
    slug: str
    row_id: str


class Day(Struct, frozen=True):
    """A day with its entries, by time."""

    day: date
    entries: Sequence[Entry]
    #: Number of further entries that are not shown.
    more: int
    #: Whether it is one of the month that is shown, and whether it is today.
    is_inside: bool
    is_today: bool

    @property
    def week(self) -> str:
        """Its week, in ISO 8601."""
        year, number, _day = self.day.isocalendar()
        return f"{year}-W{number:02}"


class Span(Struct, frozen=True):
    """The days that are shown."""

    first: date
    last: date
    #: The month, if one is shown and not a week.
    month: int | None
    title: str
    #: The addresses of the spans before and after this one, and of the other view.
    previous: Mapping[str, str]
    following: Mapping[str, str]
    other: Mapping[str, str]


@blueprint.get("/calendar")
def calendar() -> Answer:
    """Show a month, or a week."""
    today = datetime.now(UTC).astimezone(get_timezone()).date()
    span = _span(request.args.get("month", ""), request.args.get("week", ""), today)
    chosen = {name: request.args.get(name, "") for name in ("crew", "equipment")}
    for name, value in chosen.items():
        if value and not is_id(value):
            raise InvalidError({name: ["Not an id (a UUID)."]})
    places = _places(span, chosen)
    by_day = _by_day(places)
    most = MOST_OF_DAY if span.month is not None else len(places)
    entries = _entries([place for each in by_day.values() for place in each[:most]])
    days = [
        Day(
            day,
            [entries[place] for place in by_day[day][:most] if place in entries],
            max(0, len(by_day[day]) - most),
            span.month is None or day.month == span.month,
            day == today,
        )
        for day in _days(span)
    ]
    weekdays = get_day_names("abbreviated", locale=get_locale())
    return page(
        "ui/calendar.html",
        is_cut=any(sum(one.slug == slug for one in places) >= MOST for slug in _TIMES),
        span=span,
        rows=[days[at : at + 7] for at in range(0, len(days), 7)],
        day_names=[weekdays[number] for number in range(7)],
        chosen=chosen,
        filters=_filters(chosen),
    )


def _filters(chosen: Mapping[str, str]) -> dict[str, Offered]:
    return {
        "crew": crew_offered([chosen["crew"]] if chosen["crew"] else []),
        "equipment": equipment_offered([chosen["equipment"]] if chosen["equipment"] else []),
    }


# -- what is shown -------------------------------------------------------------------------------------


def _span(month: str, week: str, today: date) -> Span:
    if week:
        return _week(week)
    return _month(month or f"{today:%Y-%m}")


def _month(text: str) -> Span:
    found = _MONTH.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text)
        first = date(int(found[1]), int(found[2]), 1)
    except ValueError as error:
        raise InvalidError({"month": ["Not a month, like 2026-11."]}) from error
    _check("month", first)
    last = first.replace(day=weeks.monthrange(first.year, first.month)[1])
    return Span(
        first - timedelta(days=first.weekday()),
        last + timedelta(days=6 - last.weekday()),
        first.month,
        format_date(first, "LLLL y", locale=get_locale()),
        {"month": f"{first - timedelta(days=1):%Y-%m}"},
        {"month": f"{last + timedelta(days=1):%Y-%m}"},
        {"week": _name_of_week(first)},
    )


def _week(text: str) -> Span:
    found = _WEEK.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text)
        first = date.fromisocalendar(int(found[1]), int(found[2]), 1)
    except ValueError as error:
        raise InvalidError({"week": ["Not a week, like 2026-W48."]}) from error
    _check("week", first)
    last = first + timedelta(days=6)
    days = [format_date(day, "d MMM", locale=get_locale()) for day in (first, last)]
    return Span(
        first,
        last,
        None,
        f"{days[0]} \N{EN DASH} {days[1]} {last.year}",
        {"week": _name_of_week(first - timedelta(days=7))},
        {"week": _name_of_week(first + timedelta(days=7))},
        {"month": f"{first:%Y-%m}"},
    )


def _check(name: str, first: date) -> None:
    if not EARLIEST.year < first.year < LATEST.year:
        raise InvalidError({name: ["Not between the years 1970 and 2200."]})


def _name_of_week(day: date) -> str:
    year, number, _day = day.isocalendar()
    return f"{year}-W{number:02}"


def _days(span: Span) -> list[date]:
    return [span.first + timedelta(days=at) for at in range((span.last - span.first).days + 1)]


def _places(span: Span, chosen: Mapping[str, str]) -> list[Place]:
    zone = get_timezone()
    begin, end = (
        datetime.combine(day, time(), zone).astimezone(UTC)
        for day in (span.first, span.last + timedelta(days=1))
    )
    order = WorkOrder
    started = and_(order.planned_start_date >= begin, order.planned_start_date < end)
    ends = and_(order.planned_end_date >= begin, order.planned_end_date < end)
    within = {
        "schedules": and_(
            MaintenanceSchedule.scheduled_date >= begin, MaintenanceSchedule.scheduled_date < end
        ),
        "work-orders": or_(started, and_(order.planned_start_date.is_(None), ends)),
    }
    return [
        Place(moment_of(next(filter(None, times))), slug, row_id)
        for slug, condition in within.items()
        for row_id, *times in db.session.execute(_query(KINDS[slug], condition, chosen))
    ]


def _query(kind: Kind, condition: Any, chosen: Mapping[str, str]) -> Any:
    model = kind.model
    times = [getattr(model, name) for name in _TIMES[kind.slug]]
    query = select(model.id, *times).where(condition, model.status != "cancelled")
    if chosen["crew"]:
        query = query.where(model.assigned_crew_id == chosen["crew"])
    if chosen["equipment"]:
        query = query.where(model.equipment_id == chosen["equipment"])
    # In order, so that of more than can be shown the last days are left out, and not just any.
    return query.order_by(*times).limit(MOST)


def _by_day(places: Sequence[Place]) -> defaultdict[date, list[Place]]:
    zone = get_timezone()
    found: defaultdict[date, list[Place]] = defaultdict(list)
    for place in sorted(places, key=lambda place: place.at):
        found[place.at.astimezone(zone).date()].append(place)
    return found


def _entries(places: Sequence[Place]) -> dict[Place, Entry]:
    """Load the rows that are shown; one that was deleted a moment ago is left out."""
    rows = {
        (slug, row.id): row
        for slug in _TIMES
        for row in _rows(slug, [one.row_id for one in places if one.slug == slug])
    }
    machines = names("equipment", [row.equipment_id for row in rows.values()])
    urls = {slug: urls_of_rows("ui.row", kind=slug) for slug in _TIMES}
    found = {}
    for place in places:
        if (row := rows.get((place.slug, place.row_id))) is not None:
            kind, machine = KINDS[place.slug], machines.get(row.equipment_id, "")
            is_overdue = _IS_OVERDUE[place.slug](row)
            is_done = row.status == "completed"
            found[place] = Entry(
                urls[place.slug](row.id), kind.name_of(row), machine, is_overdue, is_done
            )
    return found


def _rows(slug: str, row_ids: Sequence[str]) -> Any:
    kind = KINDS[slug]
    # No whole rows: a month has hundreds.
    names = ("id", "equipment_id", "status", *kind.named, *_TIMES[slug], *_FOR_OVERDUE[slug])
    columns = (getattr(kind.model, name) for name in dict.fromkeys(names))
    return db.session.execute(select(*columns).where(kind.model.id.in_(row_ids)))
