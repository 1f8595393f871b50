"""Tokens of programs: issued once, stored as hashes."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.exc import DBAPIError

from extensions import db
from extensions.api import InvalidError
from extensions.database import utcnow

from .models import Token
from .rights import SCOPES

logger = logging.getLogger(__name__)

#: Shows in logs and scanners of secrets what it is.
PREFIX = "arus_"
#: The use of a token is noted at most so often.
NOTED_EACH = timedelta(minutes=1)


def issue(
    name: str, scopes: Sequence[str], created_by: str, expires_at: datetime | None = None
) -> tuple[Token, str]:
    """Issue a token; return it with its text, which is not stored.

    :raises InvalidError: something is not accepted.
    """
    name = name.strip()
    errors: dict[str, list[str]] = {}
    if not 0 < len(name) <= 80 or not name.isprintable():
        errors["name"] = ["A name has 1 to 80 printable characters."]
    if not scopes or not set(scopes) <= set(SCOPES):
        errors["scopes"] = [f"A token has one or more of {', '.join(SCOPES)}."]
    if expires_at is not None and expires_at <= utcnow():
        errors["expires"] = ["This time has passed."]
    if errors:
        raise InvalidError(errors)
    text = PREFIX + secrets.token_urlsafe(32)
    token = Token(
        name=name,
        hash=_hash(text),
        scopes=" ".join(scope for scope in SCOPES if scope in scopes),
        created_by=created_by,
        expires_at=expires_at,
    )
    db.session.add(token)
    db.session.commit()
    return token, text


def recognise(text: str) -> Token | None:
    """Return the valid token with this text."""
    token = db.session.scalar(select(Token).where(Token.hash == _hash(text)))
    if token is None or not token.is_valid:
        return None
    now = utcnow()
    if token.used_at is None or now - token.used_at > NOTED_EACH:
        _note_use(token, now)
    return token


def _note_use(token: Token, now: datetime) -> None:
    """Note when a token was last used; a full or busy disk must not keep its owner from reading."""
    name = token.name
    try:
        db.session.execute(update(Token).where(Token.id == token.id).values(used_at=now))
        db.session.commit()
    except DBAPIError as error:
        db.session.rollback()
        logger.warning("the use of the token %s can't be noted: %s", name, error.orig)


def every() -> list[Token]:
    """Return all tokens, newest first."""
    return list(db.session.scalars(select(Token).order_by(Token.created_at.desc(), Token.id)))


def find(wanted: str) -> Token | None:
    """Return the token with an id or, if only one has it, a name."""
    found = db.session.scalars(select(Token).where((Token.id == wanted) | (Token.name == wanted)))
    tokens = list(found)
    return tokens[0] if len(tokens) == 1 else None


def revoke(token: Token) -> None:
    """Revoke a token; revoking it again changes nothing."""
    if token.revoked_at is None:
        token.revoked_at = utcnow()
        db.session.commit()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
