"""Alerts as JSON."""

from __future__ import annotations

from flask_babel import lazy_gettext as lazy
from marshmallow import fields

from arus.protocol.casing import CamelSchema
from blueprints.common.fields import (
    Choice,
    Real,
    Reference,
    RowSchema,
    Text,
    Timestamp,
    example_row,
    shown,
)

ALERT_TYPES = ("warning", "critical")


class AlertSchema(RowSchema):
    """An alert."""

    example = example_row(
        "5f0c3e1a-8c1d-4f0e-9b57-2f1f6d1c0a05",
        equipmentId="5f0c3e1a-8c1d-4f0e-9b57-2f1f6d1c0a01",
        sensorType="temperature",
        alertType="critical",
        message="Bearing temperature above its limit",
        value=93.5,
        threshold=80.0,
        acknowledged=False,
        acknowledgedAt=None,
        acknowledgedBy=None,
    )
    patch_example = {"message": "Bearing temperature above its limit, pump stopped"}

    equipment_id = Reference(required=True, metadata=shown(lazy("Equipment")))
    sensor_type = Text(
        100,
        required=True,
        metadata=shown(lazy("Sensor"), shape="reading", hint=lazy("temperature")),
    )
    alert_type = Choice(
        ALERT_TYPES,
        required=True,
        metadata=shown(lazy("Severity"), shape="severity", initial="warning"),
    )
    message = Text(1000, required=True, metadata=shown(lazy("Message")))
    value = Real(required=True, metadata=shown(lazy("Value")))
    threshold = Real(required=True, metadata=shown(lazy("Threshold")))
    acknowledged = fields.Boolean(metadata=shown(lazy("Acknowledged")))
    acknowledged_at = Timestamp(allow_none=True, metadata=shown(lazy("Acknowledged at")))
    acknowledged_by = Text(200, metadata=shown(lazy("Acknowledged by")))


class AcknowledgementSchema(CamelSchema):
    """Who acknowledges the alert."""

    example = {"acknowledgedBy": "Chief engineer"}

    acknowledged_by = Text(200)
