"""Sessions of people: Flask-Login, with an end after a time without use and at a change of the password."""

from __future__ import annotations

import time

from flask import Flask, Request, request, session
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from flask_login import LoginManager, UserMixin, current_user, login_user, logout_user

from extensions import db

from .models import User

manager = LoginManager()

_SEEN = "seen"
#: Seconds after which the time of the last use is written again: not each answer needs a new cookie.
_RESOLUTION = 60


class CookieSessions(SecureCookieSessionInterface):
    """Flask's sessions; their cookie is secure where the request came by TLS."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """Return the session of a request; without a cookie there is nothing to verify, nor to verify it with."""
        if app.secret_key and self.get_cookie_name(app) not in request.cookies:
            return self.session_class()
        return super().open_session(app, request)

    def get_cookie_secure(self, app: Flask) -> bool:  # noqa: ARG002  # Flask calls it
        """Whether browsers may send the cookie by TLS alone."""
        return request.is_secure


class Login(UserMixin):
    """A person who has logged in."""

    def __init__(self, user: User) -> None:
        self.user = user

    def get_id(self) -> str:
        """Return what the session holds: it ends with the generation."""
        return f"{self.user.id}:{self.user.generation}"


@manager.user_loader
def load(session_id: str) -> Login | None:
    """Return the person of a session, or None if it has ended."""
    user_id, _colon, generation = session_id.partition(":")
    user = db.session.get(User, user_id)
    if user is None or user.disabled or str(user.generation) != generation:
        return None
    return Login(user)


def init_sessions(app: Flask) -> None:
    """Prepare the sessions of an application."""
    manager.init_app(app)
    app.session_interface = CookieSessions()


def begin(user: User) -> None:
    """Log a person in, with a session that holds nothing of an earlier one."""
    session.clear()
    login_user(Login(user))
    session[_SEEN] = int(time.time())


def end() -> None:
    """Log out."""
    logout_user()
    session.clear()


def user_of_session(idle: float, *, used: bool) -> User | None:
    """Return who is logged in.

    :param idle: seconds without use after which a session ends.
    :param used: whether the request is a use: what a page asks for by itself is none.
    """
    if not current_user.is_authenticated:
        return None
    now = int(time.time())
    unused = now - session.get(_SEEN, 0)
    if unused > idle:
        end()
        return None
    if used and unused >= _RESOLUTION:
        session[_SEEN] = now
    user: User = current_user.user
    return user
