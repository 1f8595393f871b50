"""Options: those of a form's fields, and those of a list's filters with their conditions.

Options that are rows, or values of a column, may be thousands: some are offered at a time, and all can be searched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace
from sqlalchemy import ColumnElement, and_, exists, func, not_, or_, select

from blueprints.common.fields import is_id
from blueprints.crew.models import CrewMember
from blueprints.equipment.models import Equipment
from blueprints.maintenance.models import MaintenanceSchedule
from blueprints.work_orders.models import WorkOrder
from extensions import db
from extensions.database import utcnow
from extensions.text_keys import complete_keys, equals_text, has_text, key_column
from extensions.texts import search_form, sort_key

from .i18n import _, lazy
from .inputs import Options, words
from .naming import labels
from .once import once_a_page

#: Maximum number of rows or values offered at a time.
MOST_OFFERED = 50
UNFINISHED = "unfinished"
OPEN_ORDER = WorkOrder.OPEN
OPEN_SCHEDULE = MaintenanceSchedule.OPEN


class Offered(Struct, frozen=True):
    """The options that are offered at a time."""

    options: Options
    #: The present choices, each of which is among the options.
    chosen: Options = field(default_factory=list)
    #: Whether there are more, to be found by searching.
    has_more: bool = False


#: Returns options; receives the present choices, which are always among them, and the text to search for.
Offer = Callable[[Sequence[str], str], Offered]
#: Returns the condition of a choice; raises ValueError if it is not one of the options.
Condition = Callable[[str], ColumnElement[bool]]


class Choosing(Struct, frozen=True):
    """A filter's options, and the condition of a choice."""

    offer: Offer
    where: Condition
    #: Whether there may be more options than are offered at a time.
    searched: bool = False


def equipment_offered(present: Sequence[str] = (), q: str = "") -> Offered:
    """Return the equipment in use by name; with `q` all equipment that matches, and `present` in any case."""
    return _rows_offered(Equipment, Equipment.is_active, present, q)


def crew_offered(present: Sequence[str] = (), q: str = "") -> Offered:
    """Return the crew on board by name; with `q` all that match, and `present` in any case."""
    return _rows_offered(CrewMember, CrewMember.active, present, q)


#: The functions that offer options, by the slug of the rows that a field refers to.
OFFERS: dict[str, Offer] = {"equipment": equipment_offered, "crew": crew_offered}


def all_of(offer: Offer) -> Offer:
    """Return the offer of a filter: rows that are out of use have a past, too."""
    model = Equipment if offer is equipment_offered else CrewMember
    return lambda present, q: _rows_offered(model, None, present, q)


def _rows_offered(model: Any, is_current: Any, present: Sequence[str], q: str) -> Offered:
    # The forms of the dashboard offer the same rows.
    return once_a_page(
        ("offered", model, is_current is None, tuple(present), q),
        lambda: _read_offered(model, is_current, present, q),
    )


def _read_offered(model: Any, is_current: Any, present: Sequence[str], q: str) -> Offered:
    complete_keys(model)
    query = select(model.id)
    if q:
        query = query.where(has_text(model, q))
        if is_current is not None:
            query = query.order_by(is_current.desc())
    elif is_current is not None:
        # Said so that no index is used for it: with one, SQLite would sort all these rows to find the first ones.
        query = query.where(is_current.is_not(False))
    query = query.order_by(model.name_key, model.created_at, model.id).limit(MOST_OFFERED + 1)
    found = list(db.session.scalars(query))
    chosen = [row_id for row_id in dict.fromkeys(present) if is_id(row_id)]
    names = labels(model, [*found[:MOST_OFFERED], *chosen])
    return _offered(
        [(row_id, names[row_id]) for row_id in found[:MOST_OFFERED]],
        [(row_id, names[row_id]) for row_id in chosen if row_id in names],
        has_more=len(found) > MOST_OFFERED,
    )


def _offered(options: Options, chosen: Options, *, has_more: bool) -> Offered:
    missing = [each for each in chosen if each[0] not in {value for value, _text in options}]
    return Offered([*missing, *options], chosen, has_more)


def fixed(options: Callable[[], Options]) -> Offer:
    """Return the offer of options that are always the same."""

    def offer(present: Sequence[str], _q: str) -> Offered:
        known = dict(options())
        return Offered([*known.items()], [(each, known[each]) for each in present if each in known])

    return offer


# --- filters ------------------------------------------------------------------------------------


def present_values(model: type[Any], name: str) -> Choosing:
    """Choose one of the values that exist in a column of texts; values that people take for the same are one."""
    column, key = getattr(model, name), key_column(model, name)
    assert key is not None, f"{name} has no sort key"

    def offer(present: Sequence[str], q: str) -> Offered:
        complete_keys(model)
        counted = select(key, column, func.count()).where(key.is_not(None)).group_by(key, column)
        spellings: dict[str, tuple[int, str]] = {}
        for each, text, count in db.session.execute(counted.order_by(key)):
            if each not in spellings or (count, text) > spellings[each]:
                spellings[each] = (count, text)
        values = {each: text for each, (_count, text) in spellings.items()}
        chosen = {sort_key(text): text for text in present}
        found = [text for text in values.values() if not q or search_form(q) in search_form(text)]
        return _offered(
            _pairs(found[:MOST_OFFERED]),
            _pairs(values.get(each, text) for each, text in chosen.items()),
            has_more=len(found) > MOST_OFFERED,
        )

    return Choosing(offer, lambda text: equals_text(model, name, text), searched=True)


def _pairs(texts: Iterable[str]) -> Options:
    return [(text, " ".join(text.split())) for text in texts]


def enumerated(column: Any, values: tuple[object, ...], unfinished: tuple[str, ...]) -> Choosing:
    """Choose one of `values`, or, if `unfinished` is not empty, any of these."""
    more = [(UNFINISHED, lazy("outstanding"))] if unfinished else []

    def where(text: str) -> Any:
        if unfinished and text == UNFINISHED:
            return column.in_(unfinished)
        for value in values:
            if str(value).lower() == text:
                return column == value
        raise ValueError(text)

    return Choosing(fixed(lambda: [*((v, str(t)) for v, t in more), *words([*values])]), where)


def referred(column: Any, offer: Offer) -> Choosing:
    """Choose the row that a column refers to."""

    def where(text: str) -> Any:
        if not is_id(text):
            raise ValueError(text)
        return column == text

    return Choosing(all_of(offer), where, searched=True)


def flag(column: Any) -> Choosing:
    """Choose yes or no."""

    def where(text: str) -> Any:
        if text not in {"true", "false"}:
            raise ValueError(text)
        return column == (text == "true")

    return Choosing(fixed(lambda: [("true", _("yes")), ("false", _("no"))]), where)


def due(status: Any, date: Any, unfinished: tuple[str, ...]) -> Choosing:
    """Choose how soon unfinished work is due.

    :param date: the column with the time by which it is to be done.
    """

    def options() -> Options:
        return [
            ("overdue", _("overdue")),
            ("week", _("within 7 days")),
            ("month", _("within 31 days")),
        ]

    def where(text: str) -> Any:
        days = {"overdue": 0, "week": 7, "month": 31}
        if text not in days:
            raise ValueError(text)
        return status.in_(unfinished) & (date < utcnow() + timedelta(days=days[text]))

    return Choosing(fixed(options), where)


def due_schedules() -> Choosing:
    """Choose how soon unfinished maintenance is due."""
    schedule = MaintenanceSchedule
    by_date = due(schedule.status, schedule.scheduled_date, OPEN_SCHEDULE)

    def where(text: str) -> Any:
        return overdue_schedules() if text == "overdue" else by_date.where(text)

    return replace(by_date, where=where)


def overdue_schedules(now: Any = None) -> Any:
    """Return the condition that unfinished maintenance is overdue: by its date, or by running hours.

    Where it is due by hours alone, its date is only the first day on which they can have been reached.

    :param now: the present time, or a parameter that stands for it; the present one by default.
    """
    schedule = MaintenanceSchedule
    now = utcnow() if now is None else now
    by_hours_alone = and_(schedule.due_hours.is_not(None), schedule.interval_hours.is_not(None))
    by_hours_alone = and_(by_hours_alone, schedule.interval_days.is_(None))
    passed = and_(schedule.scheduled_date < now, not_(by_hours_alone))
    return and_(schedule.status.in_(OPEN_SCHEDULE), or_(passed, hours_reached()))


def hours_reached() -> Any:
    """Return the condition that the equipment of a schedule has run the hours at which it is due."""
    schedule = MaintenanceSchedule
    return exists().where(
        Equipment.id == schedule.equipment_id, Equipment.running_hours >= schedule.due_hours
    )


def due_orders() -> Choosing:
    """Choose how soon unfinished work orders are to be done, by their planned end."""
    return due(WorkOrder.status, WorkOrder.planned_end_date, OPEN_ORDER)


def hours_left(schedule: MaintenanceSchedule) -> float | None:
    """Return the running hours until a schedule is due, negative after that; None if they are not known."""
    if schedule.due_hours is None:
        return None
    equipment = db.session.get(Equipment, schedule.equipment_id)
    hours = None if equipment is None else equipment.running_hours
    return None if hours is None else schedule.due_hours - hours


def is_worn(schedule: MaintenanceSchedule) -> bool:
    """Return whether the equipment of a schedule has run the hours at which it is due."""
    left = hours_left(schedule)
    return left is not None and left <= 0


def is_overdue(row: Any) -> bool:
    """Return whether the time by which a schedule or a work order is to be done has passed, and it is not done."""
    if isinstance(row, MaintenanceSchedule):
        return is_overdue_schedule(row)
    return isinstance(row, WorkOrder) and is_overdue_order(row)


def is_overdue_schedule(row: Any) -> bool:
    """Return whether a schedule is overdue, by its date or by running hours.

    :param row: the schedule, or a row of a query with its attributes that matter.
    """
    by_hours_alone = (
        row.due_hours is not None and row.interval_hours is not None and row.interval_days is None
    )
    passed = row.scheduled_date < utcnow() and not by_hours_alone
    return row.status in OPEN_SCHEDULE and (passed or is_worn(row))


def is_overdue_order(row: Any) -> bool:
    """Return whether the planned end of an unfinished work order has passed.

    :param row: the work order, or a row of a query with its attributes that matter.
    """
    end = row.planned_end_date
    return row.status in OPEN_ORDER and end is not None and end < utcnow()
