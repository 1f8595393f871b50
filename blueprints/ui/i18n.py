"""The pages' language, the ship's time zone, and dates and numbers in the reader's format."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, tzinfo
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from babel import Locale, negotiate_locale
from babel.dates import format_date, format_datetime
from babel.numbers import get_decimal_symbol, get_group_symbol
from flask import Flask, Response, g, has_request_context, request, url_for
from flask_babel import (
    Babel,
    format_decimal,
    format_percent,
    get_locale,
    get_timezone,
    get_translations,
)
from flask_babel.speaklater import LazyString
from markupsafe import Markup
from msgspec import Struct
from werkzeug.routing import BuildError

from .messages import FROM_ELSEWHERE

__all__ = ["LANGUAGES", "Language", "_", "init_i18n", "language", "lazy", "ngettext"]

#: The catalogues; `make translations` updates and compiles them.
TRANSLATIONS = Path(__file__).parent / "translations"
COOKIE = "language"
COOKIE_SECONDS = 400 * 24 * 3600  # the maximum that browsers accept


class Language(Struct, frozen=True):
    """A language of the pages."""

    code: str
    #: Its name in the language itself.
    name: str
    #: The locale of dates and numbers.
    locale: str
    #: Date patterns for this year, and for other years.
    day: str
    day_of_year: str


LANGUAGES: dict[str, Language] = {
    language.code: language
    for language in (
        Language("en", "English", "en_GB", "d MMM", "d MMM y"),
        Language("nb", "Norsk", "nb", "d. MMM", "d. MMM y"),
        Language("el", "Ελληνικά", "el", "d MMM", "d MMM y"),
    )
}
#: A number whose point may separate thousands.
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}")
#: Languages that browsers request, with the language of the pages that their readers understand.
_ALIASES = {"no": "nb", "nn": "nb"}


def language() -> Language:
    """Return the language of this response."""
    locale = get_locale()
    return LANGUAGES.get(locale.language if locale else "", LANGUAGES["en"])


def chosen_code() -> str:
    """Return the code of the language that the reader has chosen, or else the browser prefers."""
    if not has_request_context():
        return "en"
    for chosen in (request.args.get("lang"), request.cookies.get(COOKIE)):
        if chosen in LANGUAGES:
            return chosen
    # Werkzeug's best_match prefers an exact match to a higher quality: nb for "en-US,nb;q=0.3".
    found = negotiate_locale(request.accept_languages.values(), [*LANGUAGES, *_ALIASES], sep="-")
    code = (found or "en").lower()
    return _ALIASES.get(code, code)


def remember(response: Response) -> Response:
    """Store the chosen language in a cookie."""
    chosen = request.args.get("lang")
    if chosen in LANGUAGES and request.cookies.get(COOKIE) != chosen:
        response.set_cookie(
            COOKIE,
            chosen,
            max_age=COOKIE_SECONDS,
            path=request.root_path or "/",
            samesite="Lax",
            httponly=True,
        )
    if response.mimetype == "text/html":
        response.vary.update(("Accept-Language", "Cookie"))
        response.content_language.add(language().code)
    return response


def in_language(code: str) -> str:
    """Return the URL of this page in a language."""
    if request.method in {"GET", "HEAD"} and request.endpoint:
        # Not by url_for: it takes some names for options of its own, such as `_scheme`.
        args = [each for each in request.args.items(multi=True) if each[0] != "lang"]
        try:
            address = url_for(request.endpoint, **(request.view_args or {}))
        except BuildError:
            pass  # the page's URL can't be built from its arguments alone
        else:
            return f"{address}?{urlencode([*args, ('lang', code)])}"
    return url_for("ui.index", lang=code)


# --- texts -------------------------------------------------------------------------------------


def gettext(text: str, **values: Any) -> str:
    """Translate a text, and put the values in their places."""
    found: str = _texts().ugettext(text)
    return found % values if values else found


def ngettext(one: str, many: str, num: int, **values: Any) -> str:
    """Translate a text with a number, in the form that the number takes."""
    found: str = _texts().ungettext(one, many, num)
    return found % {"num": num, **values}


def lazy(text: str) -> Any:
    """Mark a text at module level, which is translated when it is shown."""
    return LazyString(gettext, text)


_ = gettext


def _texts() -> Any:
    """Return the reader's texts, looked up once a request: a page has hundreds."""
    try:
        return g.translations
    except AttributeError:
        g.translations = get_translations()
        return g.translations
    except RuntimeError:  # there is no context: a text that is shown by a command
        return get_translations()


# --- times -------------------------------------------------------------------------------------


def moment_of(value: datetime | str | float) -> datetime:
    """Return a moment in UTC: a datetime, ISO text, or milliseconds since 1970."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    elif not isinstance(value, datetime):
        return datetime.fromtimestamp(value / 1000, UTC)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def local_time(value: datetime | str | float | None, *, seconds: bool = False) -> Markup:
    """Return a moment in ship's time, with UTC on hover; empty for None."""
    if value is None or value == "":
        return Markup("")
    moment = moment_of(value)
    own, local = language(), moment.astimezone(get_timezone())
    pattern = "HH:mm:ss" if seconds else "HH:mm"
    if local.date() != (today := datetime.now(local.tzinfo).date()):
        day = own.day if local.year == today.year else own.day_of_year
        pattern = f"{day} {pattern}"
    return _time(moment, pattern, get_locale(), get_timezone())


def local_date(value: datetime | date | str | float | None) -> Markup:
    """Return the date of a moment in ship's time, with UTC on hover; empty for None."""
    if value is None or value == "":
        return Markup("")
    pattern = language().day_of_year
    if isinstance(value, date) and not isinstance(value, datetime):
        return _date(value, pattern, get_locale())
    return _time(moment_of(value), pattern, get_locale(), get_timezone())


# The same moments are shown again and again, and Babel takes long for each.
@lru_cache(maxsize=1024)
def _date(day: date, pattern: str, locale: Locale | None) -> Markup:
    shown = format_date(day, pattern, locale)
    return Markup('<time datetime="{}">{}</time>').format(day.isoformat(), shown)


@lru_cache(maxsize=4096)
def _time(moment: datetime, pattern: str, locale: Locale | None, zone: tzinfo) -> Markup:
    shown = format_datetime(moment, pattern, zone, locale)
    stamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Markup('<time datetime="{}" title="{:%Y-%m-%d %H:%M:%S} UTC">{}</time>').format(
        stamp, moment, shown
    )


def ship_input(value: datetime | str | float | None) -> str:
    """Return a moment for `<input type="datetime-local">`, in ship's time."""
    if value is None or value == "":
        return ""
    return f"{moment_of(value).astimezone(get_timezone()):%Y-%m-%dT%H:%M}"


def ship_moment(typed: str) -> str:
    """Return the ship's time typed into a `datetime-local` as UTC in ISO 8601; other text unchanged.

    :raises ValueError: there is no such time by the ship's clocks, which were put forward; the message says so.
    """
    zone = get_timezone()
    try:
        read = datetime.fromisoformat(typed.strip())
        moment = (read if read.tzinfo else read.replace(tzinfo=zone)).astimezone(UTC)
        is_skipped = not read.tzinfo and moment.astimezone(zone).replace(tzinfo=None) != read
    except (ValueError, OverflowError):
        return typed
    if is_skipped:
        raise ValueError(gettext("The ship's clocks skip this time."))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- numbers -----------------------------------------------------------------------------------


def local_number(value: float | None, digits: int = 10) -> str:
    """Return a number with at most `digits` significant digits, in the reader's format."""
    if value is None:
        return ""
    plain = value if isinstance(value, int) else float(f"{value:.{digits}g}")
    return _number(plain, language().code)


# By its type as well: large numbers that are equal are not written alike.
@lru_cache(maxsize=1024, typed=True)
def _number(value: float, _code: str) -> str:
    return str(format_decimal(value, "#,##0.##########"))


def local_percent(value: float) -> str:
    """Return a fraction from 0 to 1 as a percentage in the reader's format."""
    return str(format_percent(value))


def number_input(value: float | str | None) -> str:
    """Return a number for a text field: with the reader's decimal sign, without thousands separators."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.10g}".replace(".", get_decimal_symbol(get_locale()))


def typed_number(text: str) -> str:
    """Return a typed number with a decimal point, as the schemas expect it; other text unchanged.

    `2,5` is two and a half in any language; `1,234` is refused in languages where it could mean a thousand, and so is
    `1.234` where the pages write thousands with a point.
    """
    plain = re.sub(r"\s", "", text).replace("\N{MINUS SIGN}", "-")
    if _THOUSANDS.fullmatch(plain) and get_group_symbol(get_locale()) == ".":
        # Which no schema takes for a number: as it was typed it would be one and a bit.
        return plain.replace(".", ",")
    if not re.fullmatch(r"[+-]?\d+,\d+", plain):
        return plain if re.fullmatch(r"[+-]?\d+(\.\d+)?", plain) else text
    comma_is_decimal = get_decimal_symbol(get_locale()) == ","
    if not comma_is_decimal and re.search(r",\d{3}$", plain):
        return text
    return plain.replace(",", ".")


# --- texts that come from elsewhere ------------------------------------------------------------


def translated(text: object) -> str:
    """Translate a text from a library or a service, such as a field's error.

    Texts that contain values are matched by their pattern in `FROM_ELSEWHERE`.
    """
    said = str(text)
    if language().code == "en" or not said:
        return said
    if (direct := gettext(said)) != said:
        return direct
    for pattern, message in _patterns():
        if match := pattern.fullmatch(said):
            values = match.groupdict()
            return gettext(message).format(**{n: v and gettext(v) for n, v in values.items()})
    return said


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    def compiled() -> Iterator[tuple[re.Pattern[str], str]]:
        for message in FROM_ELSEWHERE:
            if "{" in message:
                pieces = re.split(r"\{(\w+)\}", message)
                pattern = "".join(
                    f"(?P<{piece}>.+?)" if place % 2 else re.escape(piece)
                    for place, piece in enumerate(pieces)
                )
                yield re.compile(pattern, re.DOTALL), message

    return tuple(compiled())


# --- wiring ------------------------------------------------------------------------------------


def init_i18n(app: Flask) -> None:
    """Add the languages to `app`, and the filters for times and numbers to its templates."""
    Babel().init_app(
        app,
        default_translation_directories=str(TRANSLATIONS),
        locale_selector=lambda: LANGUAGES[chosen_code()].locale,
        timezone_selector=lambda: ZoneInfo(app.config["SHIP_TIMEZONE"]),
    )
    app.jinja_env.install_gettext_callables(  # type: ignore[attr-defined]  # of jinja2.ext.i18n
        lambda text: _texts().ugettext(text),
        lambda one, many, number: _texts().ungettext(one, many, number),
        newstyle=True,
    )
    app.after_request(remember)
    app.jinja_env.filters.update(
        local_time=local_time,
        local_date=local_date,
        local_number=local_number,
        local_percent=local_percent,
        number_input=number_input,
        ship_input=ship_input,
        tr=translated,
    )

    @app.context_processor
    def words() -> dict[str, Any]:
        return {
            "language": language(),
            "languages": list(LANGUAGES.values()),
            "in_language": in_language,
            "ship_timezone": app.config["SHIP_TIMEZONE"],
        }
