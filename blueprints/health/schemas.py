"""Schemas of the health endpoints."""

from __future__ import annotations

from marshmallow import Schema, fields, validate


class AliveSchema(Schema):
    """The process is alive."""

    example = {"status": "ok"}

    status = fields.String(required=True, validate=validate.Equal("ok"))


class ReadySchema(Schema):
    """The process can serve."""

    example = {"status": "ready"}

    status = fields.String(required=True, validate=validate.Equal("ready"))
