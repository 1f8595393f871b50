"""`/healthz` and `/readyz`, for whoever supervises the process."""

from __future__ import annotations

from functools import cache

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Blueprint, Response, current_app, jsonify

from blueprints.common.failures import NOT_MIGRATED
from extensions import db
from extensions.api import problem

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """Say that the process lives."""
    return jsonify({"status": "ok"})


@blueprint.get("/readyz")
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
