"""The five kinds of rows, each described once: what lists, forms and pages show of it and can do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, select

from blueprints.alerts.models import Alert
from blueprints.alerts.schemas import ALERT_TYPES
from blueprints.alerts.service import acknowledge, alerts
from blueprints.common.fields import is_id
from blueprints.common.idempotency import IdempotencyKey
from blueprints.common.resource import Resource, Written
from blueprints.crew.models import CrewMember
from blueprints.crew.service import crew
from blueprints.equipment.models import Equipment
from blueprints.equipment.schemas import CRITICALITY
from blueprints.equipment.service import equipment
from blueprints.maintenance.models import MaintenanceSchedule
from blueprints.maintenance.schemas import STATUSES as SCHEDULE_STATUSES
from blueprints.maintenance.service import maintenance_schedules, raise_work_order
from blueprints.work_orders.models import WorkOrder
from blueprints.work_orders.schemas import STATUSES as ORDER_STATUSES
from blueprints.work_orders.service import work_orders
from extensions import db
from extensions.api import InvalidError, ProblemError
from extensions.database import Row, utcnow

from . import who
from .i18n import _, lazy, local_number
from .inputs import Input, Options, words

Matches = Callable[[int], bool]
#: A filter's options, and the condition of a choice.
Choosing = tuple[Callable[[str], Options], Callable[[str], Any]]

#: More rows than these are not offered for choice.
MOST_OFFERED = 1000
PRIORITIES = (1, 2, 3, 4, 5)
UNFINISHED = "unfinished"
OPEN_ORDER = ("open", "in_progress")
OPEN_SCHEDULE = ("scheduled", "pending", "in_progress", "overdue")


@dataclass(frozen=True, slots=True)
class Column:
    """What a list, or a page, shows of one attribute."""

    name: str
    label: Any
    #: text, word, flag, time, number, pairs, or the slug of the kind that it refers to.
    shape: str = "text"
    #: Whether a list can be sorted by it.
    sort: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """A choice that narrows a list."""

    name: str
    label: Any
    options: Callable[[str], Options]
    #: Returns the condition of a choice; raises ValueError for none of ours.
    where: Callable[[str], ColumnElement[bool]]
    #: What is chosen where the address says nothing.
    default: str = ""


@dataclass(frozen=True, slots=True)
class Verb:
    """Something done to a row by one click."""

    name: str
    label: Any
    #: Whether it makes sense for a row.
    fits: Callable[[Any], bool]
    do: Callable[[str, Matches], Written[Any]]
    #: The kind of the row that it makes, if it makes one.
    makes: str = ""
    primary: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of rows."""

    #: Names it in addresses.
    slug: str
    resource: Resource[Any]
    title: Any
    #: What the button says that makes a new one.
    new: Any
    #: Said above a list without rows.
    none: Any
    #: A row's name, for its page's heading and for links to it.
    name_of: Callable[[Any], str]
    #: The attributes that `name_of` takes, so that names are read without whole rows.
    named: tuple[str, ...]
    #: What a list shows, the row's link first.
    columns: tuple[Column, ...]
    #: What its page shows beyond the columns.
    details: tuple[Column, ...]
    inputs: tuple[Input, ...]
    filters: tuple[Filter, ...] = ()
    verbs: tuple[Verb, ...] = ()
    #: The order of a list where the address names none; descending with a minus.
    sort: str = "-created_at"
    #: Attributes of the inputs that the overview's short form has.
    quick: tuple[str, ...] = ()

    @property
    def entity(self) -> str:
        """The name in messages."""
        return str(self.resource.model.__tablename__)

    @property
    def model(self) -> type[Any]:
        """The table."""
        return self.resource.model

    @property
    def quick_inputs(self) -> tuple[Input, ...]:
        """The inputs of the short form, in its order."""
        by_name = {each.name: each for each in self.inputs}
        return tuple(by_name[name] for name in self.quick)

    def verbs_of(self, row: Row) -> list[Verb]:
        """Return what can be done to `row` now."""
        return [verb for verb in self.verbs if verb.fits(row)]

    def verb(self, name: str) -> Verb:
        """Return a verb by its name.

        :raises ProblemError: there is none.
        """
        for verb in self.verbs:
            if verb.name == name:
                return verb
        raise ProblemError(404, "There is no such action.")


def kind_of(slug: str) -> Kind:
    """Return a kind by its slug.

    :raises ProblemError: there is none.
    """
    if slug not in KINDS:
        raise ProblemError(404, "There is no such page.")
    return KINDS[slug]


def names(slug: str, row_ids: Iterable[str]) -> dict[str, str]:
    """Return the names of rows by their ids; those that are gone are left out."""
    kind, ids = KINDS[slug], set(row_ids)
    if not ids:
        return {}
    columns = (getattr(kind.model, name) for name in ("id", *kind.named))
    rows = db.session.execute(select(*columns).where(kind.model.id.in_(ids)))
    return {row.id: kind.name_of(row) for row in rows}


# --- what can be chosen --------------------------------------------------------------------------


def equipment_offered(present: str = "") -> Options:
    """Return the equipment in use, and `present` whether it is or not, by name."""
    return _offered("equipment", Equipment.name, Equipment.is_active, present)


def crew_offered(present: str = "") -> Options:
    """Return the crew on board, and `present` whether on board or not, by name."""
    return _offered("crew", CrewMember.name, CrewMember.active, present)


def crew_names_offered(present: str = "") -> Options:
    """Return the names of the crew on board, and `present`, as what is kept by name."""
    options = [(name, name) for _id, name in crew_offered()]
    if present and (present, present) not in options:
        options.append((present, present))
    return options


def _offered(slug: str, name: Any, condition: Any, present: str) -> Options:
    model = KINDS[slug].model
    query = select(model.id, name).where(condition).order_by(name, model.id).limit(MOST_OFFERED)
    options: Options = list(db.session.execute(query))
    if is_id(present) and present not in dict(options):
        options += names(slug, [present]).items()
    return options


def _values_of(column: Any) -> Callable[[str], Options]:
    """Return what offers the values that a column has."""

    def offered(present: str) -> Options:
        query = select(column).where(column.is_not(None)).distinct().order_by(column)
        found = list(db.session.scalars(query.limit(MOST_OFFERED)))
        return [(text, text) for text in dict.fromkeys([*found, *([present] if present else [])])]

    return offered


def _of(column: Any, values: tuple[Any, ...], *more: tuple[str, Any]) -> Choosing:
    """Return options and condition of a filter by enumerated values."""

    def where(text: str) -> Any:
        for value in values:
            if str(value).lower() == text:
                return column == value
        raise ValueError(text)

    return lambda _present: [*((v, str(t)) for v, t in more), *words([*values])], where


def _one_of(column: Any) -> Callable[[str], Any]:
    return lambda text: column == text


def _reference(column: Any) -> Callable[[str], Any]:
    def where(text: str) -> Any:
        if not is_id(text):
            raise ValueError(text)
        return column == text

    return where


def _status(column: Any, values: tuple[str, ...], unfinished: tuple[str, ...]) -> Choosing:
    options, where = _of(column, values, (UNFINISHED, lazy("not finished")))

    def either(text: str) -> Any:
        return column.in_(unfinished) if text == UNFINISHED else where(text)

    return options, either


def _flags(column: Any, yes: Any, no: Any) -> Choosing:
    def where(text: str) -> Any:
        if text not in {"true", "false"}:
            raise ValueError(text)
        return column == (text == "true")

    return lambda _present: [("true", str(yes)), ("false", str(no))], where


def _due(text: str) -> Any:
    days = {"overdue": 0, "week": 7, "month": 31}
    if text not in days:
        raise ValueError(text)
    until = utcnow() + timedelta(days=days[text])
    return MaintenanceSchedule.status.in_(OPEN_SCHEDULE) & (
        MaintenanceSchedule.scheduled_date < until
    )


def _due_options(_present: str) -> Options:
    return [
        ("overdue", _("overdue")),
        ("week", _("within 7 days")),
        ("month", _("within 31 days")),
    ]


# --- what can be done ----------------------------------------------------------------------------


def _set(resource: Resource[Any], **values: Any) -> Callable[[str, Matches], Written[Any]]:
    return lambda row_id, matches: resource.update(row_id, values, matches)


def _is(*statuses: str) -> Callable[[Any], bool]:
    return lambda row: row.status in statuses


def _acknowledge(alert_id: str, _matches: Matches) -> Written[Any]:
    return acknowledge(alert_id, who.name())


def order_of_alert(alert_id: str, _matches: Matches) -> Written[Any]:
    """Create the work order that an alert asks for; asked again, return the same."""
    alert: Alert = alerts.get(alert_id)
    data = {
        "equipment_id": alert.equipment_id,
        "reason": alert.message[:500],
        "priority": 1 if alert.alert_type == "critical" else 2,
        "maintenance_type": "corrective",
        "description": _(
            "Raised from an alert: %(sensor)s %(value)s, threshold %(threshold)s.",
            sensor=alert.sensor_type.replace("_", " "),
            value=local_number(alert.value),
            threshold=local_number(alert.threshold),
        ),
    }
    key = IdempotencyKey.of(f"order-of-alert-{alert.id}", "order-of-alert", {"id": alert.id})
    try:
        return work_orders.create(data, key)
    except ProblemError as error:
        if error.code != 410:
            raise
        # The order was deleted since: a person wants another.
        return work_orders.create(data)


def order_of_schedule(schedule_id: str, _matches: Matches) -> Written[Any]:
    """Create a schedule's work order; asked again, return the one that it has."""
    schedule: MaintenanceSchedule = maintenance_schedules.get(schedule_id)
    if schedule.work_order_id:
        return Written(work_orders.get(schedule.work_order_id), replayed=True)
    return raise_work_order(schedule_id, {})


# --- the kinds -----------------------------------------------------------------------------------

_EQUIPMENT = Input(
    "equipment_id", lazy("Equipment"), "reference", required=True, offered=equipment_offered
)
_PRIORITY = Input(
    "priority", lazy("Priority"), "choice", values=PRIORITIES, default="3", width="third"
)
_EQUIPMENT_COLUMN = Column("equipment_id", lazy("Equipment"), "equipment")
_CREATED = Column("created_at", lazy("Created"), "time", sort=True)

WORK_ORDERS = Kind(
    "work-orders",
    work_orders,
    title=lazy("Work orders"),
    new=lazy("New work order"),
    none=lazy("No work orders."),
    name_of=lambda row: f"{row.wo_number} {row.reason}",
    named=("wo_number", "reason"),
    columns=(
        Column("reason", lazy("Reason")),
        Column("wo_number", lazy("Number"), "code"),
        _EQUIPMENT_COLUMN,
        Column("priority", lazy("Priority"), "priority", sort=True),
        Column("status", lazy("Status"), "status", sort=True),
        Column("assigned_crew_id", lazy("Assigned to"), "crew"),
        Column("planned_start_date", lazy("Planned start"), "time", sort=True),
        _CREATED,
    ),
    details=(
        Column("planned_end_date", lazy("Planned end"), "time"),
        Column("maintenance_type", lazy("Type")),
        Column("estimated_hours", lazy("Estimated hours"), "number"),
        Column("actual_hours", lazy("Actual hours"), "number"),
        Column("schedule_id", lazy("Schedule"), "schedules"),
        Column("description", lazy("Description"), "long"),
    ),
    inputs=(
        _EQUIPMENT,
        Input("reason", lazy("Reason"), required=True, hint=lazy("What is wrong, in a line")),
        _PRIORITY,
        Input("status", lazy("Status"), "choice", values=ORDER_STATUSES, default="open", width="third"),
        Input("maintenance_type", lazy("Type"), width="third", hint=lazy("corrective")),
        Input("assigned_crew_id", lazy("Assigned to"), "reference", offered=crew_offered),
        Input("planned_start_date", lazy("Planned start"), "moment", width="half"),
        Input("planned_end_date", lazy("Planned end"), "moment", width="half"),
        Input("estimated_hours", lazy("Estimated hours"), "number", width="half"),
        Input("actual_hours", lazy("Actual hours"), "number", width="half"),
        Input("description", lazy("Description"), "area"),
    ),
    filters=(
        Filter("status", lazy("Status"), *_status(WorkOrder.status, ORDER_STATUSES, OPEN_ORDER)),
        Filter("priority", lazy("Priority"), *_of(WorkOrder.priority, PRIORITIES)),
        Filter("equipment", lazy("Equipment"), equipment_offered, _reference(WorkOrder.equipment_id)),
        Filter("crew", lazy("Assigned to"), crew_offered, _reference(WorkOrder.assigned_crew_id)),
    ),
    verbs=(
        Verb("start", lazy("Start"), _is("open"), _set(work_orders, status="in_progress"), primary=True),
        Verb("complete", lazy("Complete"), _is("in_progress"), _set(work_orders, status="completed"), primary=True),
        Verb("cancel", lazy("Cancel"), _is("open", "in_progress"), _set(work_orders, status="cancelled")),
        Verb("reopen", lazy("Reopen"), _is("completed", "cancelled"), _set(work_orders, status="open")),
    ),
    quick=("equipment_id", "reason", "priority", "maintenance_type", "estimated_hours", "description"),
)  # fmt: skip

ALERTS = Kind(
    "alerts",
    alerts,
    title=lazy("Alerts"),
    new=lazy("New alert"),
    none=lazy("No alerts."),
    name_of=lambda row: row.message,
    named=("message",),
    columns=(
        Column("message", lazy("Message")),
        Column("alert_type", lazy("Severity"), "severity", sort=True),
        _EQUIPMENT_COLUMN,
        Column("sensor_type", lazy("Reading"), "reading"),
        Column("created_at", lazy("Raised"), "time", sort=True),
        Column("acknowledged", lazy("Acknowledged"), "flag", sort=True),
    ),
    details=(
        Column("acknowledged_at", lazy("Acknowledged at"), "time"),
        Column("acknowledged_by", lazy("Acknowledged by")),
    ),
    inputs=(
        _EQUIPMENT,
        Input("message", lazy("Message"), required=True),
        Input("alert_type", lazy("Severity"), "choice", required=True, values=ALERT_TYPES, default="warning", width="half"),
        Input("sensor_type", lazy("Sensor"), required=True, width="half", hint=lazy("temperature")),
        Input("value", lazy("Value"), "number", required=True, width="half"),
        Input("threshold", lazy("Threshold"), "number", required=True, width="half"),
    ),
    filters=(
        Filter("acknowledged", lazy("Acknowledged"), *_flags(Alert.acknowledged, lazy("yes"), lazy("no"))),
        Filter("severity", lazy("Severity"), *_of(Alert.alert_type, ALERT_TYPES)),
        Filter("equipment", lazy("Equipment"), equipment_offered, _reference(Alert.equipment_id)),
    ),
    verbs=(
        Verb("acknowledge", lazy("Acknowledge"), lambda row: not row.acknowledged, _acknowledge, primary=True),
        Verb("work-order", lazy("Make work order"), lambda _row: True, order_of_alert, makes="work-orders"),
    ),
    quick=("equipment_id", "message", "alert_type", "sensor_type", "value", "threshold"),
)  # fmt: skip

EQUIPMENT = Kind(
    "equipment",
    equipment,
    title=lazy("Equipment"),
    new=lazy("New piece of equipment"),
    none=lazy("No equipment."),
    name_of=lambda row: row.name,
    named=("name",),
    columns=(
        Column("name", lazy("Name"), sort=True),
        Column("type", lazy("Type"), "spaced", sort=True),
        Column("location", lazy("Location"), sort=True),
        Column("manufacturer", lazy("Manufacturer"), sort=True),
        Column("model", lazy("Model")),
        Column("criticality_level", lazy("Criticality"), "word"),
        Column("is_active", lazy("In use"), "flag"),
    ),
    details=(
        Column("serial_number", lazy("Serial number")),
        Column("specifications", lazy("Specifications"), "pairs"),
    ),
    inputs=(
        Input("name", lazy("Name"), required=True),
        Input("type", lazy("Type"), required=True, width="half", hint=lazy("pump")),
        Input("criticality_level", lazy("Criticality"), "choice", values=CRITICALITY, default="medium", width="half"),
        Input("manufacturer", lazy("Manufacturer"), width="half"),
        Input("model", lazy("Model"), width="half"),
        Input("serial_number", lazy("Serial number"), width="half"),
        Input("location", lazy("Location"), width="half", hint=lazy("Engine room")),
        Input("specifications", lazy("Specifications"), "pairs", hint=lazy("powerKw: 660")),
        Input("is_active", lazy("In use"), "flag", default="true"),
    ),
    filters=(
        Filter("type", lazy("Type"), _values_of(Equipment.type), _one_of(Equipment.type)),
        Filter("location", lazy("Location"), _values_of(Equipment.location), _one_of(Equipment.location)),
        Filter("criticality", lazy("Criticality"), *_of(Equipment.criticality_level, CRITICALITY)),
        Filter("active", lazy("In use"), *_flags(Equipment.is_active, lazy("yes"), lazy("no"))),
    ),
    sort="name",
)  # fmt: skip

CREW = Kind(
    "crew",
    crew,
    title=lazy("Crew"),
    new=lazy("New member of the crew"),
    none=lazy("Nobody."),
    name_of=lambda row: row.name,
    named=("name",),
    columns=(
        Column("name", lazy("Name"), sort=True),
        Column("rank", lazy("Rank"), sort=True),
        Column("department", lazy("Department"), sort=True),
        Column("on_duty", lazy("On duty"), "flag", sort=True),
        Column("active", lazy("On board"), "flag", sort=True),
        Column("phone", lazy("Phone")),
    ),
    details=(
        Column("email", lazy("Email")),
        Column("notes", lazy("Notes"), "long"),
    ),
    inputs=(
        Input("name", lazy("Name"), required=True),
        Input("rank", lazy("Rank"), width="half", hint=lazy("Second Engineer")),
        Input("department", lazy("Department"), width="half", hint=lazy("Engine")),
        Input("email", lazy("Email"), width="half"),
        Input("phone", lazy("Phone"), width="half"),
        Input("active", lazy("On board"), "flag", default="true", width="half"),
        Input("on_duty", lazy("On duty"), "flag", width="half"),
        Input("notes", lazy("Notes"), "area"),
    ),
    filters=(
        Filter("department", lazy("Department"), _values_of(CrewMember.department), _one_of(CrewMember.department)),
        Filter("duty", lazy("On duty"), *_flags(CrewMember.on_duty, lazy("yes"), lazy("no"))),
        Filter("active", lazy("On board"), *_flags(CrewMember.active, lazy("yes"), lazy("no"))),
    ),
    verbs=(
        Verb("on-duty", lazy("Goes on duty"), lambda row: row.active and not row.on_duty, _set(crew, on_duty=True)),
        Verb("off-duty", lazy("Goes off duty"), lambda row: row.on_duty, _set(crew, on_duty=False)),
    ),
    sort="name",
)  # fmt: skip

SCHEDULES = Kind(
    "schedules",
    maintenance_schedules,
    title=lazy("Maintenance"),
    new=lazy("New schedule"),
    none=lazy("No schedules."),
    name_of=lambda row: row.maintenance_type.replace("_", " "),
    named=("maintenance_type",),
    columns=(
        Column("maintenance_type", lazy("Maintenance"), "spaced"),
        _EQUIPMENT_COLUMN,
        Column("scheduled_date", lazy("Due"), "due", sort=True),
        Column("priority", lazy("Priority"), "priority", sort=True),
        Column("status", lazy("Status"), "status", sort=True),
        Column("assigned_to", lazy("Assigned to")),
        Column("work_order_id", lazy("Work order"), "work-orders"),
    ),
    details=(
        Column("estimated_duration", lazy("Minutes"), "number"),
        Column("description", lazy("Description"), "long"),
    ),
    inputs=(
        _EQUIPMENT,
        Input("maintenance_type", lazy("Maintenance"), required=True, hint=lazy("oil change")),
        Input("scheduled_date", lazy("Due"), "moment", required=True, width="half"),
        Input("estimated_duration", lazy("Minutes"), "whole", width="half"),
        _PRIORITY,
        Input("status", lazy("Status"), "choice", values=SCHEDULE_STATUSES, default="scheduled", width="third"),
        Input("assigned_to", lazy("Assigned to"), "reference", offered=crew_names_offered, width="third"),
        Input("description", lazy("Description"), "area"),
    ),
    filters=(
        Filter("status", lazy("Status"), *_status(MaintenanceSchedule.status, SCHEDULE_STATUSES, OPEN_SCHEDULE), UNFINISHED),
        Filter("due", lazy("Due"), _due_options, _due),
        Filter("priority", lazy("Priority"), *_of(MaintenanceSchedule.priority, PRIORITIES)),
        Filter("equipment", lazy("Equipment"), equipment_offered, _reference(MaintenanceSchedule.equipment_id)),
    ),
    verbs=(
        Verb("work-order", lazy("Make work order"), lambda row: row.status in OPEN_SCHEDULE and not row.work_order_id, order_of_schedule, makes="work-orders", primary=True),
        Verb("complete", lazy("Done"), _is(*OPEN_SCHEDULE), _set(maintenance_schedules, status="completed")),
    ),
    sort="scheduled_date",
)  # fmt: skip

KINDS = {kind.slug: kind for kind in (WORK_ORDERS, ALERTS, SCHEDULES, EQUIPMENT, CREW)}


def given(kind: Kind, text: str, name: str) -> Any:
    """Return the condition of a filter's choice.

    :raises InvalidError: it is none of the choices.
    """
    for each in kind.filters:
        if each.name == name:
            try:
                return each.where(text)
            except ValueError as error:
                raise InvalidError({name: ["Not one of the choices."]}) from error
    raise InvalidError({name: ["Unknown field."]})
