"""The pages' language, the ship's zone, and dates and numbers as the reader writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date, format_datetime
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal, format_percent, get_decimal_symbol
from babel.support import NullTranslations, Translations
from flask import Flask, Response, current_app, has_request_context, request, url_for
from flask_babel import Babel, Domain, get_locale, gettext, lazy_gettext, ngettext
from markupsafe import Markup
from werkzeug.routing import BuildError

from .messages import FROM_ELSEWHERE

__all__ = ["LANGUAGES", "Language", "_", "init_i18n", "language", "lazy", "ngettext"]

_ = gettext
#: For texts at module level: translated when they are shown.
lazy = lazy_gettext

TRANSLATIONS = Path(__file__).parent / "translations"
COOKIE = "language"
COOKIE_SECONDS = 400 * 24 * 3600  # the longest that browsers keep one


@dataclass(frozen=True, slots=True)
class Language:
    """A language that the pages speak."""

    code: str
    #: As its speakers call it.
    name: str
    #: Whose dates and numbers are written.
    locale: str
    #: Patterns of a day of this year, and of another.
    day: str
    day_of_year: str


LANGUAGES: dict[str, Language] = {
    language.code: language
    for language in (
        Language("en", "English", "en_GB", "d MMM", "d MMM y"),
        Language("nb", "Norsk", "nb", "d. MMM", "d. MMM y"),
    )
}
#: What readers of other languages ask for, who read one of ours.
_ALIASES = {"no": "nb", "nn": "nb"}


class PoDomain(Domain):
    """Translations straight from the catalogues that people edit: no step to forget."""

    def get_translations(self) -> NullTranslations:
        """Return those of the reader's language."""
        locale = get_locale()
        return _translations(locale.language if locale else "en")


@cache
def catalogue(code: str) -> Catalog:
    """Return the catalogue of a language."""
    with (TRANSLATIONS / f"{code}.po").open("rb") as file:
        return read_po(file, locale=code, abort_invalid=True)


@cache
def _translations(code: str) -> NullTranslations:
    if not (TRANSLATIONS / f"{code}.po").exists():
        return NullTranslations()
    compiled = BytesIO()
    write_mo(compiled, catalogue(code))
    compiled.seek(0)
    return Translations(compiled)


def language() -> Language:
    """Return the language of this answer."""
    locale = get_locale()
    return LANGUAGES.get(locale.language if locale else "", LANGUAGES["en"])


def chosen_code() -> str:
    """Return what the reader has chosen, else what the browser prefers."""
    if not has_request_context():
        return "en"
    for chosen in (request.args.get("lang"), request.cookies.get(COOKIE)):
        if chosen in LANGUAGES:
            return chosen
    for wanted in request.accept_languages.values():
        code = wanted.partition("-")[0].lower()
        code = _ALIASES.get(code, code)
        if code in LANGUAGES:
            return code
    return "en"


def remember(response: Response) -> Response:
    """Keep the language that was chosen, for the pages to come."""
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
    """Return the address of this page in a language."""
    args = {name: value for name, value in request.args.items(multi=True) if name != "lang"}
    if request.method in {"GET", "HEAD"} and request.endpoint:
        try:
            return url_for(request.endpoint, **{**args, **(request.view_args or {}), "lang": code})
        except BuildError:
            pass  # a page that is not addressed by its arguments alone
    return url_for("ui.index", lang=code)


# --- times -------------------------------------------------------------------------------------


def ship_zone() -> ZoneInfo:
    """Return the ship's zone."""
    return ZoneInfo(current_app.config["SHIP_TIMEZONE"])


def moment_of(value: datetime | str | float) -> datetime:
    """Return a moment in UTC: a datetime, ISO text, or milliseconds since 1970."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    elif not isinstance(value, datetime):
        return datetime.fromtimestamp(value / 1000, UTC)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def local_time(value: datetime | str | float | None, *, seconds: bool = False) -> Markup:
    """Return a moment as the ship's clocks show it, with UTC on hover; nothing for none."""
    if value is None or value == "":
        return Markup("")
    moment = moment_of(value)
    own, local = language(), moment.astimezone(ship_zone())
    pattern = "HH:mm:ss" if seconds else "HH:mm"
    if local.date() != (today := datetime.now(local.tzinfo).date()):
        day = own.day if local.year == today.year else own.day_of_year
        pattern = f"{day} {pattern}"
    return _time(moment, format_datetime(local, pattern, locale=own.locale))


def local_date(value: datetime | date | str | float | None) -> Markup:
    """Return the day of a moment on board, with UTC on hover; nothing for none."""
    if value is None or value == "":
        return Markup("")
    own = language()
    if isinstance(value, date) and not isinstance(value, datetime):
        shown = format_date(value, own.day_of_year, locale=own.locale)
        return Markup('<time datetime="{}">{}</time>').format(value.isoformat(), shown)
    moment = moment_of(value)
    local = moment.astimezone(ship_zone())
    return _time(moment, format_datetime(local, own.day_of_year, locale=own.locale))


def _time(moment: datetime, shown: str) -> Markup:
    stamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Markup('<time datetime="{}" title="{:%Y-%m-%d %H:%M:%S} UTC">{}</time>').format(
        stamp, moment, shown
    )


def ship_input(value: datetime | str | float | None) -> str:
    """Return a moment for `<input type="datetime-local">`, on the ship's clock."""
    if value is None or value == "":
        return ""
    return f"{moment_of(value).astimezone(ship_zone()):%Y-%m-%dT%H:%M}"


def ship_moment(typed: str) -> str:
    """Return what was typed into a `datetime-local` as UTC in ISO 8601; other text as it is."""
    try:
        moment = datetime.fromisoformat(typed.strip())
    except ValueError:
        return typed
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ship_zone())
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- numbers -----------------------------------------------------------------------------------


def local_number(value: float | None, digits: int = 10) -> str:
    """Return a number with at most `digits` significant digits, as the reader writes it."""
    if value is None:
        return ""
    plain = value if isinstance(value, int) else float(f"{value:.{digits}g}")
    return str(format_decimal(plain, "#,##0.##########", locale=language().locale))


def local_percent(value: float) -> str:
    """Return a share, 0 to 1, as the reader writes it."""
    return str(format_percent(value, locale=language().locale))


def number_input(value: float | str | None) -> str:
    """Return a number for a text field: the reader's decimal sign, nothing between thousands."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.10g}".replace(".", get_decimal_symbol(language().locale))


def typed_number(text: str) -> str:
    """Return what was typed as schemas read it, with a point; other text as it is.

    `2,5` is two and a half in any language; `1,234` is refused where it could be a thousand.
    """
    plain = re.sub(r"\s", "", text)
    if not re.fullmatch(r"[+-]?\d+,\d+", plain):
        return plain if re.fullmatch(r"[+-]?\d+(\.\d+)?", plain) else text
    comma_is_decimal = get_decimal_symbol(language().locale) == ","
    if not comma_is_decimal and re.search(r",\d{3}$", plain):
        return text
    return plain.replace(",", ".")


# --- texts that come from elsewhere ------------------------------------------------------------


def translated(text: object) -> str:
    """Return a text that a library or a service wrote, such as a field's error, translated.

    Texts with values in them are found by their pattern in `FROM_ELSEWHERE`.
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
    """Give `app` its languages, and templates what they show times and numbers with."""
    babel = Babel(default_domain="messages")
    babel.domain_instance = PoDomain()
    babel.init_app(
        app,
        locale_selector=lambda: Locale.parse(LANGUAGES[chosen_code()].locale),
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
