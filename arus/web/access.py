"""Who may use the page and the API: the application's own rule, and no page of another site."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from flask import Blueprint, abort, request
from flask.typing import ResponseReturnValue

#: Called before each request: true lets it pass, false refuses it, anything else is answered instead
#: (a redirection to a login). It may also abort by itself.
Rule = Callable[[], "bool | ResponseReturnValue"]

#: Methods that change nothing.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def guard(blueprint: Blueprint, allow: Rule | None, *, otherwise: bool) -> None:
    """Let a blueprint's requests pass only as `allow` says, and writes from its own site's pages alone.

    :param otherwise: whether a write passes where nothing tells who sent it, as of a program.
    """

    @blueprint.before_request
    def check() -> ResponseReturnValue | None:
        if request.endpoint == f"{request.blueprint}.static":
            return None  # the same for everybody, and published anyway
        answer = True if allow is None else allow()
        if answer is False or answer is None:
            abort(403)
        if answer is not True:
            return answer
        if request.method not in SAFE_METHODS and not is_same_origin(otherwise=otherwise):
            abort(403, "The request was sent by a page of another site.")
        return None


def is_same_origin(*, otherwise: bool) -> bool:
    """Say whether a page of this server sent the request, as far as its browser tells.

    On plain http by host name a browser sends no Sec-Fetch-Site, so Origin and Referer decide.

    :param otherwise: the answer where nothing tells.
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
