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
    example_row,
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

    example = {"acknowledgedBy": "Chief engineer"}

    acknowledged_by = Text(200)
