"""`/api/mqtt/reliable-sync`: the sync's own API, with this application's rate limits and OpenAPI document."""

from __future__ import annotations

from flask import Flask, Response, request
from limits import parse

from arus.web import sync_api
from arus.web.operations import OPERATIONS, TAGS

from . import limiter
from .api import api
from .rate_limits import too_many

URL_PREFIX = "/api/mqtt/reliable-sync"

# The rules of blueprints.access are checked before.
blueprint = sync_api("sync_api", allow=lambda _action: True, url_prefix=URL_PREFIX)


_OF_HEALTH = parse("2000 per minute")


@limiter.shared_limit("60 per minute", scope="catchup")
def count_catchup() -> None:
    """Count a request for a catch-up, by the API or by the sync page's form.

    :raises RateLimitExceeded: the client has made too many.
    """


@blueprint.before_request
def count_request() -> Response | None:
    """Refuse a request that exceeds its rate limit."""
    if request.endpoint == f"{blueprint.name}.request_catchup":
        count_catchup()
    elif request.endpoint == f"{blueprint.name}.health":
        # Asked again and again, so it is not to cost more than it has to.
        wait = limiter.wait_for(_OF_HEALTH, "health")
        if wait is not None:
            return too_many(_OF_HEALTH, wait)
    return None


def init_sync_api(app: Flask) -> None:
    """Mount the API in `app` and add it to the OpenAPI document."""
    app.register_blueprint(blueprint)
    api.describe(
        app, blueprint.name, OPERATIONS, tags=TAGS, problems={"health": {429: "Too many requests."}}
    )
