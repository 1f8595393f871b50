"""Equipment as JSON."""

from __future__ import annotations

from marshmallow import fields

from blueprints.common.fields import Choice, Document, RowSchema, Text

CRITICALITY = ("low", "medium", "high", "critical")


class EquipmentSchema(RowSchema):
    """A piece of equipment."""

    name = Text(200, required=True)
    type = Text(100, required=True)
    manufacturer = Text(100)
    model = Text(100)
    serial_number = Text(100)
    location = Text(100)
    is_active = fields.Boolean()
    criticality_level = Choice(CRITICALITY, allow_none=True)
    specifications = Document()
