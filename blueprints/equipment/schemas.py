"""Equipment as JSON."""

from __future__ import annotations

from marshmallow import fields

from blueprints.common.fields import Choice, Document, RowSchema, Text, example_row

CRITICALITY = ("low", "medium", "high", "critical")


class EquipmentSchema(RowSchema):
    """A piece of equipment."""

    example = example_row(
        "5f0c3e1a-8c1d-4f0e-9b57-2f1f6d1c0a01",
        name="Fire pump No.1",
        type="pump",
        manufacturer="Allweiler",
        model="NB 50",
        serialNumber="A-117",
        location="Engine room, deck 2",
        isActive=True,
        criticalityLevel="high",
        specifications={"powerKw": 55},
    )
    patch_example = {"location": "Engine room, deck 3"}

    name = Text(200, required=True)
    type = Text(100, required=True)
    manufacturer = Text(100)
    model = Text(100)
    serial_number = Text(100)
    location = Text(100)
    is_active = fields.Boolean()
    criticality_level = Choice(CRITICALITY, allow_none=True)
    specifications = Document()
