"""Crew as JSON."""

from __future__ import annotations

from marshmallow import fields, validate

from blueprints.common.fields import RowSchema, Text


class CrewSchema(RowSchema):
    """A member of the crew."""

    name = Text(200, required=True)
    rank = Text(100)
    department = Text(100)
    email = Text(254, validate=validate.Email())
    phone = Text(50)
    active = fields.Boolean()
    on_duty = fields.Boolean()
    notes = Text(5000)
