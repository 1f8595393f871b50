"""`/sync`: the sync page of `arus.web`, within the vessel's pages."""

from __future__ import annotations

from flask import current_app

from arus.web import sync_page

from .browser import secure

blueprint = sync_page(
    base="sync/base.html",
    zone=lambda: str(current_app.config["SHIP_TIMEZONE"]),
    url_prefix="/sync",
)
blueprint.after_request(secure)
