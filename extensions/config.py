"""The application's own settings, beside those of `arus.settings`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dotenv import dotenv_values
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from arus.database import database_file
from arus.errors import SettingError
from arus.settings import SETTINGS, Setting, seconds, whole

ROOT = Path(__file__).resolve().parent.parent


class MissingSettingError(SettingError):
    """A setting that has no default is not set."""

    def __init__(self, name: str, accepted: str) -> None:
        super().__init__(name, "", accepted)
        self.args = (f"{name} is not set; it takes {accepted}",)


def database_url(text: str) -> str:
    """Parse a SQLAlchemy URL of a database that is supported, with the driver that is installed."""
    try:
        url = make_url(text)
        in_file = database_file(url) is not None
    except ArgumentError as error:
        raise ValueError(text) from error
    if url.drivername in {"postgres", "postgresql", "postgresql+psycopg"} and url.database:
        url = url.set(drivername="postgresql+psycopg")
    # Each process would have its own in-memory database, and lose it.
    elif url.drivername not in {"sqlite", "sqlite+pysqlite"} or not in_file:
        raise ValueError(text)
    return url.render_as_string(hide_password=False)


def time_zone(text: str) -> str:
    """Parse the name of a time zone."""
    try:
        ZoneInfo(text)
    except (ValueError, OSError, ZoneInfoNotFoundError) as error:
        raise ValueError(text) from error
    return text


def system_zone() -> str:
    """Return the machine's own time zone, UTC where that can't be told."""
    link = Path("/etc/localtime")
    target = str(link.resolve()) if link.is_symlink() else ""
    for name in (os.environ.get("TZ", "").lstrip(":"), target.partition("/zoneinfo/")[2]):
        try:
            return time_zone(name)
        except ValueError:
            continue
    return "UTC"


APP_SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting(
            "SECRET_KEY", None, str, "a long random text", "signs what browsers are given to keep"
        ),
        Setting(
            "DATABASE_URL",
            "sqlite:///arus.sqlite",
            database_url,
            "sqlite:///file or postgresql://user:password@host/database",
            "where the rows and the change log are; a relative SQLite file is in instance/",
        ),
        Setting(
            "DATABASE_BUSY_TIMEOUT",
            "10",
            seconds(0.1, 600),
            "seconds from 0.1 to 600",
            "how long a write waits for another process's lock on SQLite",
        ),
        Setting(
            "SHIP_TIMEZONE",
            system_zone(),
            time_zone,
            "the name of a time zone, such as Europe/Oslo",
            "the zone of the ship's clocks, which the pages show; UTC is on hover",
        ),
        Setting(
            "TRUSTED_PROXIES",
            "0",
            whole(0, 9),
            "a whole number from 0 to 9",
            "proxies in front, whose X-Forwarded-For, -Proto, -Host and -Prefix are believed",
        ),
    )
}


def load_config(overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the Flask configuration: `.env`, then the environment, then `overrides`.

    :raises SettingError: one of the application's own settings is missing or not accepted.
    """
    given: dict[str, Any] = {**dotenv_values(ROOT / ".env"), **os.environ, **(overrides or {})}
    config = {name: given[name] for name in SETTINGS if given.get(name) is not None}
    config.update(overrides or {})
    config.update({name: setting.read(given) for name, setting in APP_SETTINGS.items()})
    if config["SECRET_KEY"] is None:
        raise MissingSettingError("SECRET_KEY", APP_SETTINGS["SECRET_KEY"].accepted)
    config.setdefault("MAX_CONTENT_LENGTH", 1024 * 1024)
    config.setdefault("SESSION_COOKIE_SAMESITE", "Lax")
    return config
