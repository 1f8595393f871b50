"""The person at this tablet, remembered by its browser, so that an acknowledgement takes one click."""

from __future__ import annotations

from flask import request
from sqlalchemy import select
from werkzeug.wrappers import Response

from blueprints.access.rights import of_request
from blueprints.common.fields import is_id
from blueprints.crew.models import CrewMember
from extensions import db
from extensions.text_keys import complete_keys
from extensions.texts import sort_key

COOKIE = "crew_member"
#: The cookie's value for a person who prefers not to be named.
NOBODY = "-"
SECONDS = 400 * 24 * 3600  # the maximum that browsers accept


def name() -> str | None:
    """Return the name of the person who has logged in, or else of the one at the tablet, if known."""
    if logged_in := of_request().name:
        return logged_in
    member = _member(request.form.get("by") or request.cookies.get(COOKIE, ""))
    return member.name if member else None


def member() -> CrewMember | None:
    """Return the crew member who is at the tablet, or who has the name of the person who has logged in, if just one has it."""
    logged_in = of_request().name
    if not logged_in:
        return _member(request.cookies.get(COOKIE, ""))
    complete_keys(CrewMember)
    same = CrewMember.name_key == sort_key(logged_in)
    found = db.session.scalars(select(CrewMember).where(same, CrewMember.active).limit(2)).all()
    return found[0] if len(found) == 1 else None


def must_be_asked() -> bool:
    """Return whether it is not known who is at the tablet, and there are crew members to choose from."""
    if of_request().name:
        return False
    known = request.form.get("by") or request.cookies.get(COOKIE, "")
    if known == NOBODY or _member(known):
        return False
    return db.session.scalar(select(CrewMember.id).where(CrewMember.active).limit(1)) is not None


def remember(response: Response, chosen: str) -> Response:
    """Store the chosen crew member in a cookie."""
    response.set_cookie(
        COOKIE,
        chosen if is_id(chosen) else NOBODY,
        max_age=SECONDS,
        path=request.root_path or "/",
        httponly=True,
        samesite="Lax",
    )
    return response


def _member(crew_id: str) -> CrewMember | None:
    return db.session.get(CrewMember, crew_id) if is_id(crew_id) else None
