"""Languages, the ship's zone, and dates and numbers as a reader writes them."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from flask import Flask
from marshmallow import Schema, ValidationError, fields, validate

from blueprints.ui import i18n
from tools import translations

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted(
    path
    for folder in ("blueprints", "arus/web")
    for path in (ROOT / folder).rglob("templates/**/*.html")
    # shows the OpenAPI document, which is in English
    if path.name != "api.html"
)

Reading = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def reading() -> Reading:
    """Reads a page in a language: an address, and the request's headers."""
    app = Flask("pages")
    app.config["SHIP_TIMEZONE"] = "Europe/Oslo"
    app.add_url_rule("/", "ui.index", lambda: "")
    app.add_url_rule("/rows/<kind>", "rows", str, methods=["GET", "POST"])
    i18n.init_i18n(app)

    @contextmanager
    def read(address: str = "/", **headers: str) -> Iterator[None]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        with app.test_request_context(address, headers=sent):
            yield

    return read


@pytest.mark.parametrize(
    ("address", "headers", "code"),
    [
        ("/", {}, "en"),
        ("/", {"Accept_Language": "nb-NO,nb;q=0.9,en;q=0.5"}, "nb"),
        ("/", {"Accept_Language": "no"}, "nb"),
        ("/", {"Accept_Language": "nn-NO"}, "nb"),
        ("/", {"Accept_Language": "el-GR,en;q=0.9"}, "el"),
        ("/", {"Accept_Language": "fil,tl;q=0.9"}, "en"),
        ("/", {"Accept_Language": "en-US,nb;q=0.3"}, "en"),
        ("/", {"Accept_Language": ";;;"}, "en"),
        ("/", {"Accept_Language": "nb", "Cookie": "language=en"}, "en"),
        ("/?lang=nb", {"Accept_Language": "en", "Cookie": "language=en"}, "nb"),
        ("/?lang=../../etc", {"Cookie": "language=tlh"}, "en"),
    ],
)
def test_the_language_is_the_chosen_one_else_the_browsers(
    reading: Reading, address: str, headers: dict[str, str], code: str
) -> None:
    with reading(address, **headers):
        assert i18n.language().code == code


def test_outside_a_request_texts_are_as_written(reading: Reading) -> None:
    assert str(i18n.lazy("Dashboard")) == "Dashboard"


def test_a_page_keeps_its_address_in_the_other_language(reading: Reading) -> None:
    with reading("/rows/crew?q=ann&lang=en"):
        assert i18n.in_language("nb") == "/rows/crew?q=ann&lang=nb"
    with reading("/nowhere"):
        assert i18n.in_language("nb") == "/?lang=nb"


def test_a_moment_is_shown_on_the_ships_clock_with_utc_on_hover(reading: Reading) -> None:
    winter, summer = "2020-01-31T23:30:00.000Z", datetime(2020, 7, 1, 10, tzinfo=UTC)
    with reading("/"):
        assert i18n.local_time(winter) == (
            '<time datetime="2020-01-31T23:30:00.000Z" title="2020-01-31 23:30:00 UTC">'
            "1 Feb 2020 00:30</time>"
        )
        assert ">1 Jul 2020 12:00</time>" in i18n.local_time(summer)
        assert ">1 Jul 2020 12:00:00</time>" in i18n.local_time(summer, seconds=True)
        assert ">1 Feb 2020</time>" in i18n.local_date(winter)
        assert i18n.local_date(date(2020, 2, 1)) == '<time datetime="2020-02-01">1 Feb 2020</time>'
        assert i18n.local_time(None) == i18n.local_date("") == ""
    with reading("/?lang=nb"):
        assert ">1. juli 2020 12:00</time>" in i18n.local_time(summer.timestamp() * 1000)


def test_a_moment_of_today_needs_no_date(reading: Reading) -> None:
    with reading("/"):
        now = datetime.now(UTC)
        assert re.search(r">\d\d:\d\d</time>", i18n.local_time(now))
        assert re.search(r">\d+ \w+ .*\d\d:\d\d</time>", i18n.local_time(now - timedelta(days=2)))


def test_a_moment_is_typed_and_shown_in_a_form_on_the_ships_clock(reading: Reading) -> None:
    with reading("/"):
        assert i18n.ship_input("2020-07-01T10:00:00.000Z") == "2020-07-01T12:00"
        assert i18n.ship_moment("2020-07-01T12:00") == "2020-07-01T10:00:00.000Z"
        assert i18n.ship_moment("2020-07-01T12:00:00+00:00") == "2020-07-01T12:00:00.000Z"
        assert i18n.ship_moment("tomorrow") == "tomorrow"
        with pytest.raises(ValueError, match="clocks skip this time"):
            i18n.ship_moment("2026-03-29T02:30")
        assert i18n.ship_moment("2026-03-29T03:00") == "2026-03-29T01:00:00.000Z"
        assert i18n.ship_moment("2026-10-25T02:30") == "2026-10-25T00:30:00.000Z"
        assert i18n.ship_input(None) == ""


def test_numbers_are_written_as_the_reader_writes_them(reading: Reading) -> None:
    with reading("/"):
        assert i18n.local_number(1234567.5) == "1,234,567.5"
        assert i18n.local_number(3) == "3"
        assert i18n.number_input(0.5) == "0.5"
        assert i18n.local_percent(0.25) == "25%"
    with reading("/?lang=nb"):
        assert re.sub(r"\s", " ", i18n.local_number(1234567.5)) == "1 234 567,5"
        assert i18n.number_input(0.5) == "0,5"
        assert i18n.number_input(None) == ""


@pytest.mark.parametrize(
    ("typed", "english", "norwegian"),
    [
        ("2.5", "2.5", "2.5"),
        ("2,5", "2.5", "2.5"),
        (" -0,25 ", "-0.25", "-0.25"),
        ("\N{MINUS SIGN}0,25", "-0.25", "-0.25"),  # as Norwegian pages write it
        ("1 250,5", "1250.5", "1250.5"),
        ("1,250", "1,250", "1.250"),  # a thousand and more? In English that can't be told
        ("1,250.5", "1,250.5", "1,250.5"),
        ("a few", "a few", "a few"),
        ("", "", ""),
        ("1e3", "1e3", "1e3"),
    ],
)
def test_what_is_typed_is_read_as_the_reader_means_it(
    reading: Reading, typed: str, english: str, norwegian: str
) -> None:
    with reading("/?lang=en"):
        assert i18n.typed_number(typed) == english
    with reading("/?lang=nb"):
        assert i18n.typed_number(typed) == norwegian


@pytest.mark.parametrize(
    ("typed", "greek"),
    [("12.480", ""), ("-1.250", ""), ("2.5", "2.5"), ("0.125", "0.125"), ("12,480", "12.480")],
)
def test_what_may_be_a_thousand_is_refused_where_pages_write_thousands_so(
    reading: Reading, typed: str, greek: str
) -> None:
    with reading("/?lang=el"):
        assert i18n.local_number(12480) == "12.480"
        read = i18n.typed_number(typed)
        if greek:
            assert read == greek
        else:
            with pytest.raises(ValueError, match="could not convert"):
                float(read)


def test_a_fields_error_is_translated_with_its_values(reading: Reading) -> None:
    schema = Schema.from_dict(
        {
            "name": fields.String(required=True),
            "hours": fields.Float(validate=validate.Range(min=0, max=10)),
            "few": fields.Integer(validate=validate.Range(min=1)),
            "kind": fields.String(validate=validate.OneOf(["a", "b"])),
            "short": fields.String(validate=validate.Length(max=3)),
            "when": fields.DateTime(),
            "on": fields.Boolean(),
        }
    )()
    with pytest.raises(ValidationError) as caught:
        schema.load(
            {"hours": 11, "few": 0, "kind": "c", "short": "long", "when": "x", "on": "x", "no": 1}
        )
    said = [message for messages in caught.value.messages_dict.values() for message in messages]
    assert len(said) == 8
    with reading("/?lang=nb"):
        shown = [i18n.translated(message) for message in said]
        assert not set(shown) & set(said), "these are shown in English"
        assert any("10" in message for message in shown)
        assert i18n.translated("Written by a user.") == "Written by a user."
    with reading("/"):
        assert [i18n.translated(message) for message in said] == said


#: What only programs are told.
FOR_PROGRAMS = (
    "1 to 200 printable characters are expected.",
    "Log in, or send a valid token.",
    "No rule says who may do this.",
    "The body is not valid JSON: x",
)


def literals(node: ast.expr) -> Iterator[str]:
    """The texts in an expression, `x` in place of their values."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=values):
            yield "".join(v.value if isinstance(v, ast.Constant) else "x" for v in values)  # type: ignore[misc]
        case ast.List(elts=values) | ast.Tuple(elts=values) | ast.Dict(values=values):
            for value in values:
                yield from literals(value)


def refusals() -> Iterator[str]:
    """The texts with which requests are refused, as the sources have them."""
    for folder in ("blueprints", "extensions"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Call(func=ast.Name(id="ProblemError" | "InvalidError" | "problem")):
                        for argument in node.args:
                            yield from literals(argument)
                    case ast.Assign(targets=[ast.Name(id="default_error_messages")]):
                        yield from (re.sub(r"\{\w+\}", "x", text) for text in literals(node.value))


@pytest.mark.parametrize("code", translations.languages())
def test_each_refusal_is_translated(reading: Reading, code: str) -> None:
    with reading(f"/?lang={code}"):
        english = {text for text in refusals() if i18n.translated(text) == text}
    assert english - set(FOR_PROGRAMS) == set()


@pytest.mark.parametrize("code", translations.languages())
def test_nothing_is_untranslated(code: str) -> None:
    assert list(translations.problems(code)) == []


def test_a_catalogue_that_was_not_compiled_again_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(translations.TRANSLATIONS, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(translations, "TRANSLATIONS", tmp_path)
    assert translations.is_compiled("nb")
    catalogue = translations.load("nb")
    catalogue["Dashboard"].string = "Noe annet"
    translations.save("nb", catalogue)
    assert list(translations.problems("nb")) == [
        "nb: the compiled catalogue is out of date: make translations"
    ]
    translations.compile_catalogue("nb")
    assert translations.is_compiled("nb")


def test_there_is_a_catalogue_of_each_language_that_is_offered() -> None:
    assert {"en", *translations.languages()} == set(i18n.LANGUAGES)


class Prose(HTMLParser):
    """Collects what a reader of a template sees: texts, and attributes that are read out."""

    SHOWN = ("title", "alt", "placeholder", "aria-label", "label")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        # a macro's attributes stand outside any tag
        self.found.append(
            re.sub(r"\b[\w-]+=\"[^\"]*\"|\b(?:autofocus|checked|selected|is-\w+)\b", "", data)
        )

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in self.SHOWN]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_holds_no_text_that_is_not_marked_for_translation(path: Path) -> None:
    prose = Prose()
    prose.feed(re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", "", path.read_text(), flags=re.DOTALL))
    names = {"Arus", "MQTT", "UTC", "API", "QoS"}
    words = [
        word
        for text in prose.found
        for word in re.findall(r"[^\W\d_]{2,}", text)
        if word not in names
    ]
    assert words == []
