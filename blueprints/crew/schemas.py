"""Crew as JSON."""

from __future__ import annotations

from flask_babel import lazy_gettext as lazy
from marshmallow import fields, validate

from blueprints.common.fields import RowSchema, Text, example_row, shown


class CrewSchema(RowSchema):
    """A member of the crew."""

    example = example_row(
        "5f0c3e1a-8c1d-4f0e-9b57-2f1f6d1c0a02",
        name="Ada Berg",
        rank="Second engineer",
        department="Engine",
        email="ada.berg@ship.example",
        phone=None,
        active=True,
        onDuty=True,
        notes=None,
    )
    patch_example = {"onDuty": False}

    name = Text(200, required=True, metadata=shown(lazy("Name")))
    rank = Text(100, metadata=shown(lazy("Rank"), hint=lazy("Second Engineer")))
    department = Text(100, metadata=shown(lazy("Department"), hint=lazy("Engine")))
    email = Text(254, validate=validate.Email(), metadata=shown(lazy("Email")))
    phone = Text(50, metadata=shown(lazy("Phone")))
    active = fields.Boolean(metadata=shown(lazy("On board")))
    on_duty = fields.Boolean(metadata=shown(lazy("On duty")))
    notes = Text(5000, metadata=shown(lazy("Notes")))
