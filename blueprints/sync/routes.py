"""How the sync is seen from outside: health and metrics."""

from __future__ import annotations

import os

from flask import Response, current_app, request
from flask_smorest import Blueprint
from prometheus_client import CollectorRegistry, multiprocess
from prometheus_client.exposition import choose_encoder

from extensions import limiter, sync
from extensions.metrics import request_registry

from .schemas import HealthSchema

_SCRAPED = """\
# HELP arus_mqtt_queue_depth Undelivered changes
# TYPE arus_mqtt_queue_depth gauge
arus_mqtt_queue_depth 0.0
"""

blueprint = Blueprint("sync", __name__, description="The sync: health and metrics")


@blueprint.route("/api/mqtt/reliable-sync/health")
@limiter.limit("200 per second; 2000 per minute")
@blueprint.alt_response(200, schema=HealthSchema, success=True)
@blueprint.alt_response(429, description="Too many ask.")
@blueprint.alt_response(503, description="The database can't be reached.")
def health() -> dict[str, object]:
    """Return where the sync stands: 200 while the database can be reached, whatever the broker's state."""
    return sync.health()


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
    """Return the requests' metrics, summed over the workers, and the sync's, read from the database."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.MultiProcessCollector(registry)
    else:
        registry.register(request_registry(current_app))
    registry.register(sync.collector(current_app))
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=content_type)
