"""What roles and scopes allow: the rights that `rules` asks for."""

from __future__ import annotations

from enum import StrEnum
from typing import cast

from flask import current_app, g, has_request_context
from msgspec import Struct


class Right(StrEnum):
    """One thing that may be allowed."""

    #: See rows, changes and pages.
    READ = "read"
    #: Create work orders and alerts; acknowledge alerts.
    REPORT = "report"
    #: Create, change and delete every row.
    WRITE = "write"
    #: Ask for catch-ups, and see what the sync does.
    SYNC = "sync"
    #: Metrics, and the health of the sync in detail.
    METRICS = "metrics"
    #: Retry or discard changes and messages.
    DECIDE = "decide"
    #: Manage people and tokens.
    ADMINISTER = "administer"
    #: What everybody who is logged in may do: log out, change the own password, save filters.
    OWN = "own"


_CREW = frozenset({Right.READ, Right.REPORT, Right.OWN})
_ENGINEER = _CREW | {Right.WRITE, Right.SYNC}
EVERYTHING = frozenset(Right)

ROLES: dict[str, frozenset[Right]] = {
    "crew": _CREW,
    "engineer": _ENGINEER,
    "administrator": EVERYTHING,
}
SCOPES: dict[str, frozenset[Right]] = {
    "read": frozenset({Right.READ}),
    "write": frozenset({Right.REPORT, Right.WRITE}),
    "sync": frozenset({Right.SYNC}),
    "metrics": frozenset({Right.METRICS}),
}
#: The actor of a change that was made without login.
UNAUTHENTICATED = "unauthenticated"


class Principal(Struct, frozen=True):
    """Who sends a request."""

    #: `user:NAME`, `token:NAME` or `unauthenticated`: the actor of the changes of the request.
    actor: str
    rights: frozenset[Right]
    #: The name that pages show; blank for programs and for nobody.
    name: str = ""
    user_id: str = ""

    @property
    def is_known(self) -> bool:
        """Whether somebody has logged in or sent a token."""
        return self.actor != UNAUTHENTICATED


NOBODY = Principal(UNAUTHENTICATED, frozenset())
#: Everybody, where nobody logs in.
TRUSTED = Principal(UNAUTHENTICATED, EVERYTHING - {Right.OWN})


def of_request() -> Principal:
    """Return who sends the current request, as far as the guard has found out: it asks the database nothing."""
    if current_app.config["ACCESS"] == "trusted":
        return TRUSTED
    return cast("Principal", g.get("principal", NOBODY))


def has_right(right: Right) -> bool:
    """Return whether who sends the current request has a right; commands have all."""
    return not has_request_context() or right in of_request().rights
