"""Each request is checked here, before its view: who sends it, and whether that is allowed."""

from __future__ import annotations

from ipaddress import ip_address

import click
from flask import (
    Flask,
    Response,
    current_app,
    g,
    has_request_context,
    redirect,
    request,
    url_for,
)
from flask.typing import ResponseReturnValue

from arus.web.access import SAFE_METHODS, Action
from blueprints.ui.browser import is_htmx, refuse_foreign_forms
from blueprints.ui.layout import page
from blueprints.ui.sync_view import shows_copies
from extensions import sync
from extensions.api import problem

from . import sessions, tokens
from .rights import (
    NOBODY,
    ROLES,
    SCOPES,
    TRUSTED,
    UNAUTHENTICATED,
    Principal,
    Right,
    of_request,
)
from .rules import (
    CHANGES_ROWS,
    DECIDE,
    FROM_LOOPBACK,
    METRICS,
    OPEN,
    READ,
    SYNC,
    Rule,
    describe,
    is_allowed,
    rule_for,
    rule_of,
)

_BEARER = "Bearer "
#: What a page asks for by itself does not prolong a session.
_BY_ITSELF = frozenset({"ui.refresh", "fleet.refresh", "fleet.refresh_vessel", "arus_sync.live"})
_OF_SYNC_PAGE: dict[Action, Rule] = {
    "view": READ,
    "decide": DECIDE,
    "catchup": SYNC,
    "health": METRICS,
}
_FOR_PROGRAMS = ("/api/", "/metrics")


def init_guard(app: Flask) -> None:
    """Check all requests of an application."""
    sessions.init_sessions(app)
    app.before_request(check)
    app.jinja_env.globals.update(permits=permits)
    app.context_processor(lambda: {"principal": of_request(), "may": may})


def principal() -> Principal:
    """Return who sends the current request."""
    if "principal" not in g:
        g.principal = _principal()
        g.actor = g.principal.actor if g.principal.is_known else ""
    found: Principal = g.principal
    return found


@sync.actor
def actor() -> str:
    """Return who makes the changes of the current transaction: its request's sender, or its command."""
    if has_request_context():
        return of_request().actor
    ctx = click.get_current_context(silent=True)
    if ctx is None or ctx.parent is None:
        return UNAUTHENTICATED
    return f"command:{_name_of(ctx)}"


def _name_of(ctx: click.Context) -> str:
    """Return a command's name without that of the program: `sync reconcile`."""
    above = ctx.parent
    if above is None or above.parent is None:
        return str(ctx.info_name)
    return f"{_name_of(above)} {ctx.info_name}"


def may(right: str) -> bool:
    """Return whether a page shows its reader what takes a right."""
    return Right(right) in of_request().rights


def permits(endpoint: str, method: str = "GET", **view_args: str) -> bool:
    """Return whether a page shows its reader a link or a button to an endpoint."""
    rule = rule_for(endpoint, method, view_args)
    if rule is None or not is_allowed(rule, of_request().rights):
        return False
    return not (rule and rule <= CHANGES_ROWS and shows_copies())


def allows(action: Action) -> bool:
    """The access rule of the sync page; each request was already checked by its endpoint."""
    return is_allowed(_OF_SYNC_PAGE[action], of_request().rights)


def is_from_loopback() -> bool:
    """Return whether the current request comes from this machine."""
    try:
        return ip_address(request.remote_addr or "").is_loopback
    except ValueError:  # a Unix socket has no address; only this machine reaches it
        return not request.remote_addr


def check() -> ResponseReturnValue | None:
    """Refuse the current request if its sender may not do that."""
    if request.endpoint is None:
        return None  # answered with 404 or 405
    if current_app.config["ACCESS"] == "trusted":
        return None
    rule = rule_of(request)
    if rule is OPEN:
        return None
    if rule is None:
        return problem(403, "No rule says who may do this.")
    if is_allowed(rule, principal().rights):
        return None
    if request.endpoint in FROM_LOOPBACK and is_from_loopback():
        return None
    if principal().is_known:
        return problem(403, f"{principal().actor} may not do this; it needs {describe(rule)}.")
    return _ask_to_log_in()


def _principal() -> Principal:
    if current_app.config["ACCESS"] == "trusted":
        return TRUSTED
    header = request.headers.get("Authorization", "")
    if header.startswith(_BEARER):
        token = tokens.recognise(header.removeprefix(_BEARER).strip())
        if token is None:
            return NOBODY
        rights = frozenset().union(*(SCOPES[scope] for scope in token.scopes.split()))
        return Principal(f"token:{token.name}", rights)
    used = request.endpoint not in _BY_ITSELF
    user = sessions.user_of_session(current_app.config["SESSION_IDLE_TIME"] * 60, used=used)
    if user is None:
        return NOBODY
    return Principal(f"user:{user.name}", ROLES[user.role], user.name, user.id)


def _ask_to_log_in() -> ResponseReturnValue:
    if request.path.startswith(_FOR_PROGRAMS) and request.endpoint != "docs.page":
        headers = {"WWW-Authenticate": 'Bearer realm="arus"'}
        return problem(401, "Log in, or send a valid token.", headers=headers)
    here = request.script_root + request.full_path.rstrip("?")
    if request.method in SAFE_METHODS:
        address = url_for("access.login", next=here)
        if is_htmx():
            return Response(status=401, headers={"HX-Redirect": address})
        return redirect(address, 303)
    if request.endpoint in _BY_ITSELF:
        return Response(status=401)
    # Another site's form must not be kept, and sent once its victim has logged in.
    refuse_foreign_forms()
    # A form whose session has ended: what was typed is kept, and sent after logging in.
    kept = [(name, value) for name, value in request.form.items(multi=True)]
    return page(
        "access/login.html", 401, first=False, errors={}, name="", next="", kept=kept, action=here
    )
