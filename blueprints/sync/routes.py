"""How the sync is seen from outside: health and metrics."""

from __future__ import annotations

import os

from flask import Blueprint, Response, current_app, request
from prometheus_client import CollectorRegistry, multiprocess
from prometheus_client.exposition import choose_encoder

from extensions import limiter, sync
from extensions.metrics import request_registry

blueprint = Blueprint("sync", __name__)


@blueprint.get("/api/mqtt/reliable-sync/health")
@limiter.limit("200 per second; 2000 per minute")
def health() -> dict[str, object]:
    """Return where the sync stands: 200 while the database can be reached, whatever the broker's state."""
    return sync.health()


@blueprint.get("/metrics")
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
