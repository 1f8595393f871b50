"""`/healthz`, `/readyz` and `/metrics`, for the supervisor of the process."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from flask import Response, current_app, jsonify, request
from flask_smorest import Blueprint
from prometheus_client import CollectorRegistry, multiprocess
from prometheus_client.exposition import choose_encoder

from blueprints.common.failures import NEWER, NOT_MIGRATED
from extensions import db, sync
from extensions.api import problem
from extensions.metrics import request_registry

from .schemas import AliveSchema, ReadySchema

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

_SCRAPED = """\
# HELP arus_mqtt_queue_depth Undelivered changes
# TYPE arus_mqtt_queue_depth gauge
arus_mqtt_queue_depth 0.0
"""

blueprint = Blueprint("health", __name__, description="Health: for the supervisor of the process")


@blueprint.route("/healthz")
@blueprint.alt_response(200, schema=AliveSchema, success=True)
def healthz() -> Response:
    """Report that the process is alive."""
    return jsonify({"status": "ok"})


@blueprint.route("/readyz")
@blueprint.alt_response(200, schema=ReadySchema, success=True)
@blueprint.alt_response(503, description="The database can't be reached, or is not migrated.")
def readyz() -> Response:
    """Report whether the database can be reached and is migrated."""
    # Alembic takes a fifth of the time of all other imports, and most workers are never asked this.
    from alembic.migration import MigrationContext

    with db.engine.connect() as connection:
        found = set(MigrationContext.configure(connection).get_current_heads())
    scripts = _scripts(current_app.extensions["migrate"].directory)
    if found != set(scripts.get_heads()):
        known = {script.revision for script in scripts.walk_revisions()}
        return problem(503, NOT_MIGRATED if found <= known else NEWER)
    return jsonify({"status": "ready"})


@blueprint.route("/metrics")
@blueprint.alt_response(
    200,
    content_type="application/openmetrics-text",
    schema={"type": "string"},
    example=f"{_SCRAPED}# EOF\n",
    success=True,
)
@blueprint.alt_response(
    200, content_type="text/plain", schema={"type": "string"}, example=_SCRAPED, success=True
)
def scrape() -> Response:
    """Return the metrics of the requests, summed over the workers, and of the sync, read from the database."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.MultiProcessCollector(registry)
    else:
        registry.register(request_registry(current_app))
    registry.register(sync.runtime().collector())
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type)


@cache
def _scripts(directory: str) -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(directory)
