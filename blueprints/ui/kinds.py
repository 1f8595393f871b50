"""The five kinds of rows: the fields that their lists, pages and forms show, in order.

How a field is shown is derived from the schema; see `derived`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct
from sqlalchemy import or_, select

from blueprints.alerts.service import alerts
from blueprints.common.resource import Resource
from blueprints.crew.service import crew
from blueprints.equipment.service import equipment
from blueprints.maintenance.service import maintenance_schedules
from blueprints.work_orders.service import work_orders
from extensions import db
from extensions.api import InvalidError, ProblemError
from extensions.database import Row

from .choices import OPEN_ORDER, OPEN_SCHEDULE, UNFINISHED, due_orders, due_schedules
from .derived import Column, Filter, columns_of, filter_of, inputs_of, slug_of
from .i18n import lazy
from .inputs import Input
from .naming import DISTINGUISHING, labels
from .verbs import (
    Verb,
    acknowledge_alert,
    has_status,
    order_of_alert,
    order_of_schedule,
    setting,
)


class Kind(Struct, frozen=True):
    """A kind of rows."""

    resource: Resource[Any]
    title: Any
    #: The label of the button that creates a row.
    new: Any
    #: The text shown for an empty list.
    none: Any
    #: Returns a row's name, for its page's heading and for links to it.
    name_of: Callable[[Any], str]
    #: The attributes that `name_of` uses, so that names can be read without loading whole rows.
    named: tuple[str, ...]
    #: The columns of a list; the first is the link to the row.
    columns: tuple[Column, ...]
    #: Attributes that a row's page shows in addition to the columns.
    details: tuple[Column, ...]
    inputs: tuple[Input, ...]
    filters: tuple[Filter, ...] = ()
    verbs: tuple[Verb, ...] = ()
    #: The default order of a list; descending with a minus.
    sort: str = "-created_at"
    #: Attributes of the inputs in the dashboard's short form.
    quick: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The name in URLs."""
        return slug_of(self.entity)

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
        """The inputs of the short form, in order."""
        by_name = {each.name: each for each in self.inputs}
        return tuple(by_name[name] for name in self.quick)

    def verbs_of(self, row: Row) -> list[Verb]:
        """Return the actions that are possible for `row` now."""
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
    """Return the names of rows by their ids; deleted rows are left out."""
    kind, ids = KINDS[slug], set(row_ids)
    if not ids:
        return {}
    if kind.model in DISTINGUISHING:
        return labels(kind.model, ids)
    columns = (getattr(kind.model, name) for name in ("id", *kind.named))
    rows = db.session.execute(select(*columns).where(kind.model.id.in_(ids)))
    return {row.id: kind.name_of(row) for row in rows}


# --- the kinds -----------------------------------------------------------------------------------

WORK_ORDERS = Kind(
    work_orders,
    title=lazy("Work orders"),
    new=lazy("New work order"),
    none=lazy("No work orders."),
    name_of=lambda row: f"{row.wo_number} {row.reason}",
    named=("wo_number", "reason"),
    columns=columns_of(
        work_orders,
        "reason wo_number equipment_id priority status assigned_crew_id planned_start_date created_at",
        sort="priority status planned_start_date created_at",
    ),
    details=columns_of(
        work_orders,
        "planned_end_date maintenance_type estimated_hours actual_hours schedule_id description",
    ),
    inputs=inputs_of(
        work_orders,
        "equipment_id",
        "reason",
        "priority status maintenance_type",
        "assigned_crew_id",
        "planned_start_date planned_end_date",
        "estimated_hours actual_hours",
        "description",
        "steps",
    ),
    filters=(
        filter_of(work_orders, "status", unfinished=OPEN_ORDER),
        Filter("due", lazy("Planned end"), due_orders()),
        filter_of(work_orders, "priority"),
        filter_of(work_orders, "equipment_id", name="equipment"),
        filter_of(work_orders, "assigned_crew_id", name="crew"),
    ),
    verbs=(
        Verb("start", lazy("Start"), has_status("open"), setting(work_orders, status="in_progress"), primary=True),
        Verb("complete", lazy("Complete"), has_status("in_progress"), setting(work_orders, status="completed"), primary=True),
        Verb("cancel", lazy("Cancel"), has_status("open", "in_progress"), setting(work_orders, status="cancelled")),
        Verb("reopen", lazy("Reopen"), has_status("completed", "cancelled"), setting(work_orders, status="open")),
    ),
    quick=("equipment_id", "reason", "priority", "maintenance_type", "estimated_hours", "description"),
)  # fmt: skip

ALERTS = Kind(
    alerts,
    title=lazy("Alerts"),
    new=lazy("New alert"),
    none=lazy("No alerts."),
    name_of=lambda row: row.message,
    named=("message",),
    columns=columns_of(
        alerts,
        "message alert_type equipment_id sensor_type created_at acknowledged",
        sort="alert_type created_at acknowledged",
        labels={"sensor_type": lazy("Reading"), "created_at": lazy("Raised")},
    ),
    details=columns_of(alerts, "acknowledged_at acknowledged_by"),
    inputs=inputs_of(
        alerts, "equipment_id", "message", "alert_type sensor_type", "value threshold"
    ),
    filters=(
        filter_of(alerts, "acknowledged"),
        filter_of(alerts, "alert_type", name="severity"),
        filter_of(alerts, "equipment_id", name="equipment"),
    ),
    verbs=(
        Verb("acknowledge", lazy("Acknowledge"), lambda row: not row.acknowledged, acknowledge_alert, primary=True),
        Verb("work-order", lazy("Raise work order"), lambda _row: True, order_of_alert, makes="work-orders"),
    ),
    quick=("equipment_id", "message", "alert_type", "sensor_type", "value", "threshold"),
)  # fmt: skip

EQUIPMENT = Kind(
    equipment,
    title=lazy("Equipment"),
    new=lazy("New equipment"),
    none=lazy("No equipment."),
    name_of=lambda row: row.name,
    named=("name",),
    columns=columns_of(
        equipment,
        "name type location manufacturer model criticality_level is_active",
        sort="name type location manufacturer",
    ),
    details=columns_of(equipment, "running_hours serial_number specifications"),
    inputs=inputs_of(
        equipment,
        "name",
        "type criticality_level",
        "manufacturer model",
        "serial_number location running_hours",
        "specifications",
        "is_active",
    ),
    filters=(
        filter_of(equipment, "type"),
        filter_of(equipment, "location"),
        filter_of(equipment, "criticality_level", name="criticality"),
        filter_of(equipment, "is_active", name="active"),
    ),
    sort="name",
)

CREW = Kind(
    crew,
    title=lazy("Crew"),
    new=lazy("New crew member"),
    none=lazy("No crew members."),
    name_of=lambda row: row.name,
    named=("name",),
    columns=columns_of(
        crew,
        "name rank department on_duty active phone",
        sort="name rank department on_duty active",
    ),
    details=columns_of(crew, "email notes"),
    inputs=inputs_of(
        crew, "name", "rank department", "email phone", "active on_duty", "notes"
    ),
    filters=(
        filter_of(crew, "department"),
        filter_of(crew, "on_duty", name="duty"),
        filter_of(crew, "active"),
    ),
    verbs=(
        Verb("on-duty", lazy("Put on duty"), lambda row: row.active and not row.on_duty, setting(crew, on_duty=True)),
        Verb("off-duty", lazy("Take off duty"), lambda row: row.on_duty, setting(crew, on_duty=False)),
    ),
    sort="name",
)  # fmt: skip

SCHEDULES = Kind(
    maintenance_schedules,
    title=lazy("Maintenance"),
    new=lazy("New schedule"),
    none=lazy("No schedules."),
    name_of=lambda row: row.maintenance_type.replace("_", " "),
    named=("maintenance_type",),
    columns=columns_of(
        maintenance_schedules,
        "maintenance_type equipment_id scheduled_date priority status assigned_crew_id work_order_id",
        sort="scheduled_date priority status",
    ),
    details=columns_of(
        maintenance_schedules,
        "due_hours interval_days interval_hours estimated_duration description",
    ),
    inputs=inputs_of(
        maintenance_schedules,
        "equipment_id",
        "maintenance_type",
        "scheduled_date estimated_duration",
        "interval_days interval_hours due_hours",
        "priority status assigned_crew_id",
        "description",
    ),
    filters=(
        filter_of(maintenance_schedules, "status", unfinished=OPEN_SCHEDULE, default=UNFINISHED),
        Filter("due", lazy("Due"), due_schedules()),
        filter_of(maintenance_schedules, "priority"),
        filter_of(maintenance_schedules, "equipment_id", name="equipment"),
        filter_of(maintenance_schedules, "assigned_crew_id", name="crew"),
    ),
    verbs=(
        Verb("work-order", lazy("Raise work order"), lambda row: row.status in OPEN_SCHEDULE and not row.work_order_id, order_of_schedule, makes="work-orders", primary=True),
        Verb("complete", lazy("Done"), has_status(*OPEN_SCHEDULE), setting(maintenance_schedules, status="completed")),
    ),
    sort="scheduled_date",
)  # fmt: skip

KINDS = {kind.slug: kind for kind in (WORK_ORDERS, ALERTS, SCHEDULES, EQUIPMENT, CREW)}
#: A converter for URLs: `/<kind>` must match only these, not the paths of other routes.
SLUGS = f"any({', '.join(repr(slug) for slug in KINDS)})"


def given(kind: Kind, texts: Iterable[str], name: str) -> Any:
    """Return the condition of a filter's choices: one of them.

    :raises InvalidError: one is not among the options.
    """
    for each in kind.filters:
        if each.name == name:
            try:
                return or_(*(each.where(text) for text in texts))
            except ValueError as error:
                raise InvalidError({name: ["Not one of the choices."]}) from error
    raise InvalidError({name: ["Unknown field."]})
