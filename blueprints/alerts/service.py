"""Operations on alerts."""

from __future__ import annotations

from blueprints.common.resource import Resource, Written
from extensions.api import Errors, ProblemError
from extensions.database import utcnow

from .models import Alert
from .schemas import AlertSchema


def settle(alert: Alert) -> Errors:
    """Keep the acknowledgement's fields consistent: clear them if the alert is not acknowledged."""
    if alert.acknowledged:
        alert.acknowledged_at = alert.acknowledged_at or utcnow()
    else:
        alert.acknowledged_at = alert.acknowledged_by = None
    return {}


alerts = Resource(Alert, AlertSchema, "alert", settle=settle)


def acknowledge(alert_id: str, by: str | None) -> Written[Alert]:
    """Acknowledge an alert; the first acknowledgement stands."""
    if alerts.get(alert_id).acknowledged:
        return Written(alerts.get(alert_id))
    try:
        return alerts.update(alert_id, {"acknowledged": True, "acknowledged_by": by})
    except ProblemError as error:
        # Somebody else may have acknowledged it at the same moment.
        if error.code != 409 or not alerts.get(alert_id).acknowledged:
            raise
        return Written(alerts.get(alert_id))
