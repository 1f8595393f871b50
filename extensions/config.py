"""The application's own settings, in addition to those of `arus.settings`."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
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

#: Settings of Flask-Compress. `extensions.assets` decides which responses it compresses.
COMPRESSION: dict[str, Any] = {
    "COMPRESS_MIMETYPES": [
        "text/html",
        "text/css",
        "text/javascript",
        "application/javascript",
        "application/json",
        "image/svg+xml",
    ],
    "COMPRESS_ALGORITHM": ["gzip"],
    # Bytes; for smaller responses, the headers would cost more than compression saves.
    "COMPRESS_MIN_SIZE": 1000,
    "COMPRESS_REGISTER": False,
    # Streamed responses are not compressed: they are long, and each part is sent at once.
    "COMPRESS_STREAMS": False,
    # Werkzeug has already handled conditional requests.
    "COMPRESS_EVALUATE_CONDITIONAL_REQUEST": False,
}


_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?")
#: Shortest `SECRET_KEY`: a shorter one could be guessed from a cookie.
SHORTEST_KEY = 16


class MissingSettingError(SettingError):
    """A setting that has no default is not set."""

    def __init__(self, name: str, accepted: str) -> None:
        super().__init__(name, "", accepted)
        self.args = (f"{name} is not set; it takes {accepted}",)


def database_url(text: str) -> str:
    """Parse a SQLAlchemy URL of a supported database, and select the installed driver."""
    try:
        url = make_url(text)
        in_file = database_file(url) is not None
    except ArgumentError as error:
        raise ValueError(text) from error
    if url.drivername in {"postgres", "postgresql", "postgresql+psycopg"} and url.database:
        url = url.set(drivername="postgresql+psycopg")
    # Each process would have its own in-memory database, and lose it at its end.
    elif url.drivername not in {"sqlite", "sqlite+pysqlite"} or not in_file:
        raise ValueError(text)
    return url.render_as_string(hide_password=False)


def secret(text: str) -> str:
    """Parse a secret key."""
    if len(text) < SHORTEST_KEY:
        raise ValueError
    return text


def access(text: str) -> str:
    """Parse who may use the application."""
    if text not in {"trusted", "login"}:
        raise ValueError(text)
    return text


def address(text: str) -> str:
    """Parse an address to listen on; an IPv6 address gets the brackets that a port needs."""
    if text.startswith("unix:"):
        return text
    if ":" in text:
        in_brackets = text.startswith("[") and text.endswith("]")
        return f"[{IPv6Address(text[1:-1] if in_brackets else text)}]"
    if not _HOST_NAME.fullmatch(text.lower()):
        raise ValueError(text)
    return text


def host_names(text: str) -> frozenset[str]:
    """Parse names of hosts, comma separated."""
    names = frozenset(name.strip().lower().rstrip(".") for name in text.split(","))
    if not all(_HOST_NAME.fullmatch(name) for name in names):
        raise ValueError(text)
    return names


def own_names() -> str:
    """Return the names under which this machine is reached, without asking a name server."""
    name = socket.gethostname().lower().rstrip(".")
    short = name.partition(".")[0]
    found = ("localhost", name, short, f"{short}.local")
    return ",".join(each for each in found if _HOST_NAME.fullmatch(each))


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is reached from this machine alone."""
    if host in {"", "localhost"} or host.startswith("unix:"):
        return bool(host)
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def time_zone(text: str) -> str:
    """Parse the name of a time zone."""
    try:
        ZoneInfo(text)
    except (ValueError, OSError, ZoneInfoNotFoundError) as error:
        raise ValueError(text) from error
    return text


def system_zone() -> str:
    """Return the machine's time zone; UTC if it is not known."""
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
            "SECRET_KEY",
            None,
            secret,
            f"a random text of at least {SHORTEST_KEY} characters",
            "signs the cookies",
            is_secret=True,
        ),
        Setting(
            "HOST",
            "127.0.0.1",
            address,
            "an IP address or the name of a host",
            "the address that the server listens on",
        ),
        Setting(
            "ACCESS",
            None,
            access,
            "trusted or login",
            "trusted: nobody logs in; login: people log in, and programs send a token. The default is trusted"
            " where HOST is a loopback address; for any other HOST it must be set",
        ),
        Setting(
            "SESSION_IDLE_TIME",
            "480",
            seconds(1, 525_600),
            "minutes from 1 to 525600",
            "minutes without use after which a person has to log in again",
        ),
        Setting(
            "TRUSTED_HOSTS",
            own_names(),
            host_names,
            "host names, comma separated",
            "names that requests may be for, against DNS rebinding; any IP address is allowed too",
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
    config["ACCESS"] = access_of(config["ACCESS"], config["HOST"])
    # Flask reads its own TRUSTED_HOSTS, which knows no IP addresses.
    config["ALLOWED_HOSTS"] = config.pop("TRUSTED_HOSTS")
    config.setdefault("MAX_CONTENT_LENGTH", 1024 * 1024)
    config.setdefault("SESSION_COOKIE_SAMESITE", "Lax")
    for name, value in COMPRESSION.items():
        config.setdefault(name, value)
    return config


def access_of(given: str | None, host: str) -> str:
    """Return who may use an application that listens on `host`.

    :raises MissingSettingError: others reach the host, and it is not set.
    """
    if given is None and not is_loopback(host):
        raise MissingSettingError(
            "ACCESS", f"trusted or login, because {host} is not a loopback address"
        )
    return given or "trusted"
