"""Which page, of which site, has made a browser send a request."""

from __future__ import annotations

from flask import request

from arus.web.access import SAFE_METHODS, is_same_origin
from extensions.api import ProblemError

__all__ = ["SAFE_METHODS", "is_same_origin", "refuse_foreign_writes"]


def refuse_foreign_writes() -> None:
    """Refuse a write to the API that a page of another site has sent; programs may send what they like.

    The vessel's network is trusted, so nothing else would keep a page out that a browser on board shows.

    :raises ProblemError: it was sent from elsewhere.
    """
    if request.method in SAFE_METHODS or not request.path.startswith("/api/"):
        return
    if not is_same_origin(otherwise=True):
        raise ProblemError(403, "The request was sent by a page of another site.")
