"""Which page, of which site, has made a browser send a request."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import request

from extensions.api import ProblemError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def is_same_origin(*, otherwise: bool) -> bool:
    """Say whether a page of this server sent the request, as far as its browser tells.

    On plain http by host name a browser sends no Sec-Fetch-Site, so Origin and Referer decide.

    :param otherwise: the answer where nothing tells: a program sends none of the three.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    source = request.headers.get("Origin") or request.headers.get("Referer")
    if not source:
        return otherwise
    try:
        return urlsplit(source).netloc.lower() == request.host.lower()
    except ValueError:
        return False


def refuse_foreign_writes() -> None:
    """Refuse a write to the API that a page of another site has sent; programs may send what they like.

    The vessel's network is trusted, so nothing else would keep a page out that a browser on board shows.

    :raises ProblemError: it was sent from elsewhere.
    """
    if request.method in SAFE_METHODS or not request.path.startswith("/api/"):
        return
    if not is_same_origin(otherwise=True):
        raise ProblemError(403, "The request was sent by a page of another site.")
