"""Template helpers for texts, times and numbers; the application's own are used if it has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from flask import current_app
from markupsafe import Markup, escape

from arus.ops.forecast import in_units
from arus.outbox.usage import in_units as in_bytes
from arus.protocol.times import iso

#: Maximum number of characters of a payload that are shown.
MOST_SHOWN = 100_000


def helpers() -> dict[str, Any]:
    """Return the helpers of the page's templates."""
    env = current_app.jinja_env
    number = env.filters.get("local_number", plain_number)
    found: dict[str, Any] = {
        "when": env.filters.get("local_time", utc_time),
        "number": number,
        "size": lambda size: _size(size, number),
        "said": env.filters.get("tr", str),
        "units": in_units,
        "utc": iso,
        "pretty": pretty,
    }
    if "_" not in env.globals:
        # An application without translations: texts are not translated.
        found |= {"_": untranslated, "ngettext": untranslated_plural}
    return found


def untranslated(text: str, **values: Any) -> str:
    """Return a text with its values filled in, as gettext does without a translation."""
    return _filled(text, values)


def untranslated_plural(one: str, many: str, num: int, **values: Any) -> str:
    """Return the singular or the plural text, with its values filled in."""
    return _filled(one if num == 1 else many, {"num": num, **values})


def _filled(text: str, values: Mapping[str, Any]) -> str:
    # As Jinja's own gettext: values are escaped; the text itself is trusted.
    return Markup(text) % {name: escape(value) for name, value in values.items()}  # noqa: S704


def _size(size: float, number: Callable[[float], str]) -> str:
    """Return bytes in a readable unit."""
    value, _, unit = in_bytes(size).partition(" ")
    return f"{number(float(value))}\u00a0{unit}"


def utc_time(milliseconds: int | None) -> Markup:
    """Return a moment in UTC; the page's script shows it in the reader's zone."""
    if milliseconds is None:
        return Markup("")
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    today = moment.date() == datetime.now(UTC).date()
    shown = f"{moment:%H:%M} UTC" if today else f"{moment.day} {moment:%b %Y %H:%M} UTC"
    return Markup('<time datetime="{}" data-arus-utc>{}</time>').format(iso(milliseconds), shown)


def plain_number(value: float) -> str:
    """Return a number with narrow spaces between its thousands."""
    return f"{value:,.10g}".replace(",", "\u202f")


def pretty(payload: bytes | Mapping[str, Any] | None) -> str:
    """Return a JSON payload indented; other payloads as they are."""
    try:
        value = orjson.loads(payload) if isinstance(payload, bytes) else payload
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        text = payload.decode(errors="backslashreplace") if isinstance(payload, bytes) else ""
    if len(text) > MOST_SHOWN:
        return f"{text[:MOST_SHOWN]}\n… (+{len(text) - MOST_SHOWN})"
    return text
