"""Actions on a row that take one click."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from blueprints.alerts.models import Alert
from blueprints.alerts.service import acknowledge, alerts
from blueprints.common.idempotency import IdempotencyKey
from blueprints.common.resource import Resource, Written
from blueprints.maintenance.models import MaintenanceSchedule
from blueprints.maintenance.service import maintenance_schedules, raise_work_order
from blueprints.work_orders.service import work_orders
from extensions.api import ProblemError

from . import who
from .i18n import _, local_number

Matches = Callable[[int], bool]


class Verb(Struct, frozen=True):
    """An action on a row that takes one click."""

    name: str
    label: Any
    #: Whether it applies to a row.
    fits: Callable[[Any], bool]
    do: Callable[[str, Matches], Written[Any]]
    #: The kind of the row that it creates, if it creates one.
    makes: str = ""
    primary: bool = False


def setting(resource: Resource[Any], **values: Any) -> Callable[[str, Matches], Written[Any]]:
    """Return an action that sets attributes of a row."""
    return lambda row_id, matches: resource.update(row_id, values, matches)


def has_status(*statuses: str) -> Callable[[Any], bool]:
    """Return a predicate: whether a row has one of `statuses`."""
    return lambda row: row.status in statuses


def acknowledge_alert(alert_id: str, _matches: Matches) -> Written[Any]:
    """Acknowledge an alert in the name of the person at the tablet."""
    return acknowledge(alert_id, who.name())


def order_of_alert(alert_id: str, _matches: Matches) -> Written[Any]:
    """Create the work order for an alert; when repeated, return the same order."""
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
    key = IdempotencyKey.of_all(f"order-of-alert-{alert.id}", "order-of-alert", {"id": alert.id})
    try:
        return work_orders.create(data, key)
    except ProblemError as error:
        if error.code != 410:
            raise
        # The order was deleted since, so this click requests another.
        return work_orders.create(data)


def order_of_schedule(schedule_id: str, _matches: Matches) -> Written[Any]:
    """Create a schedule's work order; when repeated, return the existing order."""
    schedule: MaintenanceSchedule = maintenance_schedules.get(schedule_id)
    if schedule.work_order_id:
        return Written(work_orders.get(schedule.work_order_id), replayed=True)
    if schedule.status in MaintenanceSchedule.OVER:
        raise ProblemError(412, "The maintenance schedule was changed since: read it again.")
    return raise_work_order(schedule_id, {})
