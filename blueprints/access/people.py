"""People: adding, changing and recognising them."""

from __future__ import annotations

import unicodedata

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from werkzeug.security import check_password_hash, generate_password_hash

from extensions import db
from extensions.api import InvalidError
from extensions.database import utcnow

from .models import User, key_of
from .rights import ROLES

#: Characters of the shortest and the longest password (ASVS 5.0, 6.2.1 and 6.2.9).
SHORTEST, LONGEST = 10, 200
#: The hash that a password is compared with if nobody has the name. Not made at the first such attempt, which would
#: take twice as long.
OF_NOBODY = (
    "scrypt:32768:8:1$74QLBmFg5XVnL5ke$2f9c8b128460d9ea537aaad44420c75012c6c5b0243008c7db996a12ded88313"
    "ed0479c022c55fc13c28d8cb81692eee878fc0fd3f85443f2e67ef48d4280184"
)


def find(name: str) -> User | None:
    """Return the person with a name."""
    user: User | None = db.session.scalar(select(User).where(User.key == key_of(name)))
    return user


def everybody() -> list[User]:
    """Return all people, by name."""
    return list(db.session.scalars(select(User).order_by(User.key)))


def is_nobody_there() -> bool:
    """Return whether nobody was added yet."""
    return db.session.scalar(select(User.id).limit(1)) is None


def add(name: str, role: str, password: str) -> User:
    """Add a person.

    :raises InvalidError: the name is taken, or something is not accepted.
    """
    name = unicodedata.normalize("NFC", name.strip())
    errors = _name_errors(name) | _role_errors(role) | password_errors(password, name)
    if errors:
        raise InvalidError(errors)
    user = User(name=name, key=key_of(name), role=role, password=_hash(password))
    db.session.add(user)
    try:
        db.session.commit()
    except IntegrityError:
        db.session.rollback()
        raise InvalidError({"name": ["There is somebody with this name already."]}) from None
    return user


def change_password(user: User, password: str) -> None:
    """Set a password; all sessions of this person end.

    :raises InvalidError: it is not accepted.
    """
    if errors := password_errors(password, user.name):
        raise InvalidError(errors)
    user.password = _hash(password)
    user.generation += 1
    db.session.commit()


def change_role(user: User, role: str) -> None:
    """Give a person another role.

    :raises InvalidError: there is no such role, or nobody would be left to administer.
    """
    if errors := _role_errors(role):
        raise InvalidError(errors)
    if role != "administrator":
        _keep_an_administrator(user)
    user.role = role
    db.session.commit()


def disable(user: User, *, disabled: bool = True) -> None:
    """Lock a person out, or in again; the sessions end.

    :raises InvalidError: nobody would be left to administer.
    """
    if disabled:
        _keep_an_administrator(user)
    user.disabled = disabled
    user.generation += 1
    db.session.commit()


def recognise(name: str, password: str) -> User | None:
    """Return the person with this name and password; it takes as long for a name that nobody has."""
    user = find(name)
    matches = check_password_hash(user.password if user else OF_NOBODY, password[: LONGEST + 1])
    if user is None or not matches or user.disabled:
        return None
    return user


def note_login(user: User) -> None:
    """Note that a person has logged in."""
    user.seen_at = utcnow()
    db.session.commit()


def is_password_of(user: User, password: str) -> bool:
    """Return whether it is this person's password."""
    return check_password_hash(user.password, password[: LONGEST + 1])


def password_errors(password: str, name: str) -> dict[str, list[str]]:
    """Return why a password is not accepted."""
    if not SHORTEST <= len(password) <= LONGEST:
        return {"password": [f"A password has {SHORTEST} to {LONGEST} characters."]}
    if key_of(password) == key_of(name) or len(set(password)) < 4:
        return {"password": ["This password is easy to guess."]}
    return {}


def _name_errors(name: str) -> dict[str, list[str]]:
    if 0 < len(name) <= 80 and name.isprintable() and len(key_of(name)) <= 240:
        return {}
    return {"name": ["A name has 1 to 80 printable characters."]}


def _role_errors(role: str) -> dict[str, list[str]]:
    return {} if role in ROLES else {"role": [f"A role is one of {', '.join(ROLES)}."]}


def _keep_an_administrator(user: User) -> None:
    others = select(User.id).where(User.role == "administrator", ~User.disabled, User.id != user.id)
    if user.role == "administrator" and db.session.scalar(others.limit(1)) is None:
        raise InvalidError({"role": ["Nobody else is an administrator."]})


def _hash(password: str) -> str:
    return generate_password_hash(password, "scrypt")
