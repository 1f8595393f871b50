"""Control characters of messages reach neither a log line nor a terminal."""

from __future__ import annotations

import io
import logging
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import click
import orjson
import pytest
from click.testing import CliRunner
from flask import Flask
from flask.cli import ScriptInfo
from hypothesis import given
from hypothesis import strategies as st

import arus
from arus.cli.common import sync_commands
from arus.cli.output import echo, echo_json
from arus.escapes import escaped, escaped_json
from arus.logs import get_logger

HOSTILE = (
    "a\x1b[2J\x07\r\n[MQTT Reliable Sync] forged\x85\x9b31m\u2028\u2029\u202e\u2066\u200f\ud800\x7f"
)
PACKAGE = Path(arus.__file__).parent


def is_safe(text: str) -> bool:
    return not any(
        unicodedata.category(one) in {"Cc", "Cs", "Zl", "Zp"}
        or unicodedata.bidirectional(one) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
        or one in "\u200e\u200f\u061c"
        for one in text
    )  # fmt: skip


@given(st.text(st.characters(), max_size=30))
def test_an_escaped_text_is_safe_and_says_the_same(text: str) -> None:
    assert is_safe(escaped(text))
    if is_safe(text) and text == escaped(text):
        return
    assert escaped(text) != text


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=20)))
def test_an_escaped_document_is_safe_and_the_same(document: dict[str, str]) -> None:
    for option in (0, orjson.OPT_INDENT_2):
        text = escaped_json(orjson.dumps(document, option=option).decode())
        assert is_safe(text.replace("\n", ""))
        assert orjson.loads(text) == document


def test_ordinary_texts_stay_as_they_are() -> None:
    for text in ("Ναύτης", "船", "नाविक\u200dक", "é “q”", "🚢"):
        assert escaped(text) == text


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What a plain handler writes of the package's loggers."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("arus")
    log.addHandler(handler)
    yield stream
    log.removeHandler(handler)


def test_a_log_line_is_one_line_whatever_it_is_about(stream: io.StringIO) -> None:
    logger = get_logger("arus.tests.escapes")
    logger.warning("topic %s of %r", HOSTILE, HOSTILE, extra={"follower": HOSTILE})
    logger.warning(HOSTILE)
    lines = stream.getvalue().removesuffix("\n").split("\n")
    assert len(lines) == 2
    assert all(is_safe(line) for line in lines)
    assert r"a\x1b[2J\x07\x0d\x0a[MQTT" in lines[0]


def test_a_field_of_a_record_is_escaped() -> None:
    found: list[logging.LogRecord] = []
    logger = get_logger("arus.tests.fields")
    handler = logging.Handler()
    handler.emit = found.append  # type: ignore[assignment,method-assign]
    logger.addHandler(handler)
    logger.warning("a", extra={"follower": HOSTILE, "seq": 7})
    logger.removeHandler(handler)
    assert is_safe(vars(found[0])["follower"])
    assert vars(found[0])["seq"] == 7


def test_a_traceback_has_no_line_of_the_message(stream: io.StringIO) -> None:
    logger = get_logger("arus.tests.escapes")
    try:
        try:
            raise ValueError(HOSTILE)
        except ValueError as error:
            raise KeyError(f"because {HOSTILE}") from error
    except KeyError:
        logger.exception("failed")
    text = stream.getvalue()
    assert is_safe(text.replace("\n", ""))
    assert not re.search(r"^\[MQTT", text, re.M)
    assert text.splitlines()[1].startswith("Traceback")
    assert 'raise ValueError(HOSTILE)' in text  # fmt: skip


def test_a_harmless_record_is_left_alone(stream: io.StringIO) -> None:
    found: list[logging.LogRecord] = []
    logger = get_logger("arus.tests.fields")
    handler = logging.Handler()
    handler.emit = found.append  # type: ignore[assignment,method-assign]
    logger.addHandler(handler)
    logger.warning("%s of %d", "one", 2)
    logger.removeHandler(handler)
    assert (found[0].msg, found[0].args) == ("%s of %d", ("one", 2))
    assert stream.getvalue() == "one of 2\n"


def test_each_module_has_a_logger_that_escapes() -> None:
    for file in PACKAGE.rglob("*.py"):
        if file.name != "logs.py":
            assert "getLogger(__name__)" not in file.read_text(), file


def test_each_command_prints_by_the_helper() -> None:
    for file in (PACKAGE / "cli").glob("*.py"):
        if file.name != "output.py":
            text = file.read_text()
            assert "click.echo(" not in text, file
            assert not re.search(r"(?<![\w.])print\(", text), file


def test_what_a_command_prints_is_escaped() -> None:
    @sync_commands.command("hostile")
    def hostile() -> None:
        echo(f"{HOSTILE}", styled=click.style("ok", fg="green"))
        echo_json(orjson.dumps({"a": HOSTILE.replace("\ud800", "")}))
        raise click.ClickException(HOSTILE)

    info = ScriptInfo(create_app=lambda: Flask("tests"))
    try:
        ran = CliRunner().invoke(sync_commands, ["hostile"], obj=info)
    finally:
        del sync_commands.commands["hostile"]
    assert ran.exit_code == 1
    assert "Error: a\\x1b" in ran.output
    assert is_safe(ran.output.replace("\n", ""))
    assert len(ran.output.splitlines()) == 3
