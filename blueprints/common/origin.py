"""Protection against cross-site requests."""

from __future__ import annotations

from flask import request

from arus.web.access import SAFE_METHODS, is_same_origin
from extensions.api import ProblemError

__all__ = ["SAFE_METHODS", "is_same_origin", "refuse_foreign_writes"]


def refuse_foreign_writes() -> None:
    """Refuse a write to the API that was sent by a page of another site; programs are not restricted.

    The vessel's network is trusted: without this check, any web page open on board could write to the API.

    :raises ProblemError: the request was sent by another site's page.
    """
    if request.method in SAFE_METHODS or not request.path.startswith("/api/"):
        return
    if not is_same_origin(otherwise=True):
        raise ProblemError(403, "The request was sent by a page of another site.")
