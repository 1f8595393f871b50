"""Access to the page and the API: the application's own rule, and no writes from pages of other sites."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Literal, cast
from urllib.parse import urlsplit

from flask import Blueprint, abort, current_app, request
from flask.typing import ResponseReturnValue

#: What a request does: look at something, retry or discard changes and messages, ask for a catch-up, or read the
#: health document.
Action = Literal["view", "decide", "catchup", "health"]
#: Called with the action before each request: True allows it, False refuses it, anything else is returned as the
#: response (such as a redirect to a login). It may also call `abort` itself. A rule without a parameter is called
#: without the action.
Rule = Callable[[Action], "bool | ResponseReturnValue"] | Callable[[], "bool | ResponseReturnValue"]
#: A rule, called with the action.
AskedRule = Callable[[Action], "bool | ResponseReturnValue"]

_NO_RULE = (
    "No rule says who may use the sync's pages, so only an application in debug mode opens them:"
    " give sync_page and sync_api allow=..."
)

#: Methods that change nothing.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def asked(rule: Rule) -> AskedRule:
    """Return a rule that is called with the action, whether or not it looks at it."""
    try:
        inspect.signature(rule).bind("view")
    except TypeError:
        return lambda _action: cast("Callable[[], bool | ResponseReturnValue]", rule)()
    except ValueError:  # a function of a compiled module may have no signature
        pass
    return cast("AskedRule", rule)


def guard(
    blueprint: Blueprint, allow: Rule | None, actions: Mapping[str, Action], *, otherwise: bool
) -> Callable[[Action], bool]:
    """Apply the access rule `allow` to a blueprint's requests, and refuse writes from pages of other sites.

    Without a rule everybody is refused, except in debug mode: whoever reaches the pages can discard changes.

    :param actions: what an endpoint does, by its name in the blueprint; the others view.
    :param otherwise: whether to allow a write whose origin is unknown, such as one sent by a program.
    :returns: whether the sender of the current request may do something; for what pages show.
    """
    rule = None if allow is None else asked(allow)

    @blueprint.before_request
    def check() -> ResponseReturnValue | None:
        if request.endpoint == f"{request.blueprint}.static":
            return None  # the same for everybody, and public
        if rule is None and not current_app.debug:
            abort(403, _NO_RULE)
        action = actions.get((request.endpoint or "").rpartition(".")[2], "view")
        answer = True if rule is None else rule(action)
        if answer is False or answer is None:
            abort(403)
        if answer is not True:
            return answer
        if request.method not in SAFE_METHODS and not is_same_origin(otherwise=otherwise):
            abort(403, "The request was sent by a page of another site.")
        return None

    # A rule that answers with a redirect does not allow.
    return lambda action: rule is None or rule(action) is True


def is_same_origin(*, otherwise: bool) -> bool:
    """Return whether a page of this server sent the request, according to the browser's headers.

    Over plain HTTP with a host name, a browser sends no Sec-Fetch-Site, so Origin or Referer decides.

    :param otherwise: the result if none of these headers is present.
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
