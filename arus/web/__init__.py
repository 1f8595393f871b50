"""A page for people and an API for programs, which any Flask application can mount.

::

    app.register_blueprint(sync_page(base="site/sync.html", allow=may), url_prefix="/sync")
    app.register_blueprint(sync_api(allow=may), url_prefix="/api/sync")

Both are ordinary blueprints: they accept a URL prefix, a base template and an access rule, and find the
application's `ReliableSync` by themselves. `arus.web.operations` lists the API's operations, with the
marshmallow schemas of `arus.web.schemas`, for the application's OpenAPI document. See `docs/plugin.md`.
"""

from __future__ import annotations

from .access import Action, Rule
from .api import sync_api
from .chip import Chip, read_chip
from .page import sync_page

__all__ = ["Action", "Chip", "Rule", "read_chip", "sync_api", "sync_page"]
