"""Alerts as JSON."""

from __future__ import annotations

from marshmallow import fields

from blueprints.common.fields import (
    CamelSchema,
    Choice,
    Real,
    Reference,
    RowSchema,
    Text,
    Timestamp,
)

ALERT_TYPES = ("warning", "critical")


class AlertSchema(RowSchema):
    """An alert."""

    equipment_id = Reference(required=True)
    sensor_type = Text(100, required=True)
    alert_type = Choice(ALERT_TYPES, required=True)
    message = Text(1000, required=True)
    value = Real(required=True)
    threshold = Real(required=True)
    acknowledged = fields.Boolean()
    acknowledged_at = Timestamp(allow_none=True)
    acknowledged_by = Text(200)


class AcknowledgementSchema(CamelSchema):
    """Who has seen the alert."""

    acknowledged_by = Text(200)
