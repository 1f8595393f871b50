"""Crew as JSON."""

from __future__ import annotations

from marshmallow import fields, validate

from blueprints.common.fields import RowSchema, Text, example_row


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

    name = Text(200, required=True)
    rank = Text(100)
    department = Text(100)
    email = Text(254, validate=validate.Email())
    phone = Text(50)
    active = fields.Boolean()
    on_duty = fields.Boolean()
    notes = Text(5000)
