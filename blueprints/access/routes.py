"""`/login`, `/account`, `/users` and `/tokens`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue

from blueprints.ui.browser import refuse_foreign_forms, secure
from blueprints.ui.i18n import _
from blueprints.ui.layout import go, page
from extensions import db, limiter
from extensions.api import Errors, InvalidError, ProblemError

from . import guard, people, sessions, tokens
from .commands import add_commands
from .models import Token, User, key_of
from .rights import ROLES, SCOPES

blueprint = Blueprint("access", __name__, template_folder="templates", cli_group=None)
blueprint.before_request(refuse_foreign_forms)
blueprint.after_request(secure)
add_commands(blueprint)

#: Prefix of the fields of a form that came back after its session had ended.
KEPT = "kept."
_MOST_KEPT = 200
_WRONG = "This name and password do not match, or the account is disabled."


@limiter.limit("5 per minute; 30 per hour", key_func=lambda: f"login {key_of(_typed('name'))}")
@limiter.limit("20 per minute; 200 per hour")
def _count_login() -> None:
    """Count an attempt to log in, for the name and for the address."""


@blueprint.route("/login", methods=["GET", "POST"])
def login() -> ResponseReturnValue:
    """Log in; from this machine itself, the first administrator is added here."""
    first = people.is_nobody_there() and guard.is_from_loopback()
    if request.method == "GET":
        return _login_page(first=first)
    _count_login()
    try:
        user = _add_first() if first else people.recognise(_typed("name"), _typed("password"))
    except InvalidError as error:
        return _login_page(422, first=first, errors=error.errors)
    if user is None:
        return _login_page(403, first=first, errors={"name": [_WRONG]})
    people.note_login(user)
    sessions.begin(user)
    kept = _kept()
    if kept:
        return page("access/resend.html", kept=kept, action=_local(_typed("action")))
    return go(_local(_typed("next")))


@blueprint.post("/logout")
def logout() -> ResponseReturnValue:
    """Log out."""
    sessions.end()
    return go(url_for("access.login"))


@blueprint.route("/account", methods=["GET", "POST"])
def account() -> ResponseReturnValue:
    """Change the own password."""
    if request.method == "GET":
        return page("access/account.html", errors={})
    user = db.session.get(User, guard.principal().user_id)
    if user is None:
        raise ProblemError(403, "Only people have a password.")
    try:
        if not people.is_password_of(user, _typed("old")):
            raise InvalidError({"old": ["This is not your password."]})
        people.change_password(user, _typed("password"))
    except InvalidError as error:
        return page("access/account.html", 422, errors=error.errors)
    sessions.begin(user)
    return go(url_for("access.account"), _("The password was changed; other sessions have ended."))


# -- people -------------------------------------------------------------------------------------


@blueprint.get("/users")
def users() -> ResponseReturnValue:
    """The people."""
    return _users_page()


@blueprint.post("/users")
def add_user() -> ResponseReturnValue:
    """Add a person."""
    try:
        user = people.add(_typed("name"), _typed("role"), _typed("password"))
    except InvalidError as error:
        return _users_page(422, errors=error.errors)
    return go(url_for("access.users"), _("%(name)s was added.", name=user.name))


@blueprint.post("/users/<user_id>/<any(disable, enable, password, role):action>")
def change_user(user_id: str, action: str) -> ResponseReturnValue:
    """Disable or enable a person, or give a new password or role."""
    user = db.session.get(User, user_id)
    if user is None:
        raise ProblemError(404, "There is nobody with this id.")
    try:
        if action == "password":
            people.change_password(user, _typed("password"))
        elif action == "role":
            people.change_role(user, _typed("role"))
        else:
            people.disable(user, disabled=action == "disable")
    except InvalidError as error:
        return _users_page(
            422, errors={user.id: [text for each in (error.errors or {}).values() for text in each]}
        )
    if user.id == guard.principal().user_id and not user.disabled:
        sessions.begin(user)  # the change has ended this session too
    return go(url_for("access.users"), _("%(name)s was changed.", name=user.name))


# -- tokens -------------------------------------------------------------------------------------


@blueprint.get("/tokens")
def tokens_page() -> ResponseReturnValue:
    """The tokens."""
    return _tokens_page()


@blueprint.post("/tokens")
def add_token() -> ResponseReturnValue:
    """Issue a token, and show it once."""
    try:
        _token, text = tokens.issue(
            _typed("name"),
            request.form.getlist("scope"),
            guard.principal().actor,
            _end_of(_typed("expires")),
        )
    except InvalidError as error:
        return _tokens_page(422, errors=error.errors)
    return _tokens_page(201, issued=text)


@blueprint.post("/tokens/<token_id>/revoke")
def revoke_token(token_id: str) -> ResponseReturnValue:
    """Revoke a token."""
    token = db.session.get(Token, token_id)
    if token is None:
        raise ProblemError(404, "There is no token with this id.")
    tokens.revoke(token)
    return go(url_for("access.tokens_page"), _("%(name)s was revoked.", name=token.name))


# -- parts --------------------------------------------------------------------------------------


def _login_page(status: int = 200, *, first: bool, errors: Errors | None = None) -> Any:
    return page(
        "access/login.html",
        status,
        first=first,
        errors=errors or {},
        name=_typed("name"),
        next=_local(_typed("next") or request.args.get("next", "")),
        kept=_kept(),
        action=_local(_typed("action")),
    )


def _users_page(status: int = 200, errors: Errors | None = None) -> Any:
    return page(
        "access/users.html", status, users=people.everybody(), roles=ROLES, errors=errors or {}
    )


def _tokens_page(status: int = 200, errors: Errors | None = None, issued: str = "") -> Any:
    return page(
        "access/tokens.html",
        status,
        tokens=tokens.every(),
        scopes=SCOPES,
        errors=errors or {},
        issued=issued,
    )


def _add_first() -> User:
    return people.add(_typed("name"), "administrator", _typed("password"))


def _typed(name: str) -> str:
    return request.form.get(name, "")


def _kept() -> list[tuple[str, str]]:
    kept = [
        (name.removeprefix(KEPT), value)
        for name, value in request.form.items(multi=True)
        if name.startswith(KEPT)
    ]
    return kept[:_MOST_KEPT]


def _local(address: str) -> str:
    """Return an address on this server; the dashboard for any other."""
    # Browsers read a backslash as a slash, and skip tabs and line ends.
    plain = address.isprintable() and "\\" not in address
    if plain and address.startswith("/") and not address.startswith("//"):
        return address
    return url_for("ui.index")


def _end_of(day: str) -> datetime | None:
    if not day:
        return None
    try:
        return datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1)
    except (ValueError, OverflowError):
        raise InvalidError({"expires": ["A day is expected, such as 2027-01-31."]}) from None
