"""Equipment as JSON."""

from __future__ import annotations

from flask_babel import lazy_gettext as lazy
from marshmallow import fields

from blueprints.common.fields import (
    Choice,
    Document,
    Real,
    RowSchema,
    Text,
    example_row,
    shown,
)

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
        runningHours=12480.5,
        specifications={"powerKw": 55},
    )
    patch_example = {"location": "Engine room, deck 3"}

    name = Text(200, required=True, metadata=shown(lazy("Name")))
    type = Text(100, required=True, metadata=shown(lazy("Type"), shape="spaced", hint=lazy("pump")))
    manufacturer = Text(100, metadata=shown(lazy("Manufacturer")))
    model = Text(100, metadata=shown(lazy("Model")))
    serial_number = Text(100, metadata=shown(lazy("Serial number")))
    location = Text(100, metadata=shown(lazy("Location"), hint=lazy("Engine room")))
    is_active = fields.Boolean(metadata=shown(lazy("In use")))
    criticality_level = Choice(CRITICALITY, allow_none=True, metadata=shown(lazy("Criticality")))
    running_hours = Real(0, 1e7, allow_none=True, metadata=shown(lazy("Running hours")))
    specifications = Document(metadata=shown(lazy("Specifications"), hint=lazy("powerKw: 660")))
