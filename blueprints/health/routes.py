"""`/healthz` and `/readyz`, for whoever supervises the process."""

from __future__ import annotations

from functools import cache

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Response, current_app, jsonify
from flask_smorest import Blueprint

from blueprints.common.failures import NOT_MIGRATED
from extensions import db
from extensions.api import problem

from .schemas import AliveSchema, ReadySchema

blueprint = Blueprint("health", __name__, description="Health: for whoever supervises the process")


@blueprint.route("/healthz")
@blueprint.alt_response(200, schema=AliveSchema, success=True)
def healthz() -> Response:
    """Say that the process lives."""
    return jsonify({"status": "ok"})


@blueprint.route("/readyz")
@blueprint.alt_response(200, schema=ReadySchema, success=True)
@blueprint.alt_response(503, description="The database is away, or not migrated.")
def readyz() -> Response:
    """Say whether the database can be reached and is migrated."""
    with db.engine.connect() as connection:
        found = set(MigrationContext.configure(connection).get_current_heads())
    if found != _expected(current_app.extensions["migrate"].directory):
        return problem(503, NOT_MIGRATED)
    return jsonify({"status": "ready"})


@cache
def _expected(directory: str) -> set[str]:
    return set(ScriptDirectory(directory).get_heads())
