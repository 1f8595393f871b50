"""Who is at this tablet: remembered by its browser, so that an acknowledgement takes one click."""

from __future__ import annotations

from flask import request
from sqlalchemy import select
from werkzeug.wrappers import Response

from blueprints.common.fields import is_id
from blueprints.crew.models import CrewMember
from extensions import db

COOKIE = "crew_member"
#: Remembered where a person would rather not be named.
NOBODY = "-"
SECONDS = 400 * 24 * 3600  # the longest that browsers keep one


def name() -> str | None:
    """Return the name of who is at the tablet, if that is known."""
    member = _member(request.form.get("by") or request.cookies.get(COOKIE, ""))
    return member.name if member else None


def must_be_asked() -> bool:
    """Whether nobody has said yet who is at the tablet, and there is somebody to be."""
    known = request.form.get("by") or request.cookies.get(COOKIE, "")
    if known == NOBODY or _member(known):
        return False
    return db.session.scalar(select(CrewMember.id).where(CrewMember.active).limit(1)) is not None


def remember(response: Response, chosen: str) -> Response:
    """Have the browser remember who is at it."""
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
