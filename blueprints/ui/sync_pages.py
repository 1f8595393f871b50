"""`/sync`: the sync page of `arus.web`, within the vessel's pages."""

from __future__ import annotations

from flask import current_app, request

from arus.web import sync_page
from blueprints.access.guard import allows
from extensions.sync_api import count_catchup

from .browser import secure

blueprint = sync_page(
    base="sync/base.html",
    allow=allows,
    zone=lambda: str(current_app.config["SHIP_TIMEZONE"]),
    url_prefix="/sync",
)
blueprint.after_request(secure)


@blueprint.before_request
def count_request() -> None:
    """Refuse a request for a catch-up that exceeds the rate limit of the API."""
    if request.endpoint == f"{blueprint.name}.ask":
        count_catchup()
