"""The sync made visible: a page for people and an API for programs, for any Flask application.

::

    app.register_blueprint(sync_page(base="site/sync.html", allow=is_engineer), url_prefix="/sync")
    app.register_blueprint(sync_api(allow=is_engineer), url_prefix="/api/sync")

Both are ordinary blueprints: they take the application's prefix, its base template and its access rule, and
find the application's `ReliableSync` by themselves. `docs/plugin.md` tells more.
"""

from __future__ import annotations

from .access import Rule
from .api import sync_api
from .chip import Chip, read_chip
from .page import sync_page

__all__ = ["Chip", "Rule", "read_chip", "sync_api", "sync_page"]
