"""`/api/mqtt/reliable-sync`: the sync's own API, with this application's rate limits and OpenAPI document."""

from __future__ import annotations

from flask import Flask, request

from arus.web import sync_api
from arus.web.operations import OPERATIONS, TAGS

from . import limiter
from .api import api

URL_PREFIX = "/api/mqtt/reliable-sync"

# The rules of blueprints.access are checked before.
blueprint = sync_api("sync_api", allow=lambda _action: True, url_prefix=URL_PREFIX)


@limiter.limit("2000 per minute")
def _count_health() -> None:
    """Count a request for the health document."""


@limiter.shared_limit("60 per minute", scope="catchup")
def count_catchup() -> None:
    """Count a request for a catch-up, by the API or by the sync page's form.

    :raises RateLimitExceeded: the client has made too many.
    """


_COUNTERS = {
    f"{blueprint.name}.health": _count_health,
    f"{blueprint.name}.request_catchup": count_catchup,
}


@blueprint.before_request
def count_request() -> None:
    """Refuse a request that exceeds its rate limit."""
    if counter := _COUNTERS.get(request.endpoint or ""):
        counter()


def init_sync_api(app: Flask) -> None:
    """Mount the API in `app` and add it to the OpenAPI document."""
    app.register_blueprint(blueprint)
    api.describe(
        app, blueprint.name, OPERATIONS, tags=TAGS, problems={"health": {429: "Too many requests."}}
    )
