"""Log lines: words first, then fields."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from extensions.logs import FieldsFormatter


@pytest.fixture
def logger() -> Iterator[Any]:
    logger = logging.getLogger("tests.of.the.formatter")
    logger.propagate = False
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(FieldsFormatter("[%(levelname)s] %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.stream = stream  # type: ignore[attr-defined]
    yield logger
    logger.removeHandler(handler)


def test_a_line_without_fields_is_its_words(logger: Any) -> None:
    logger.info("connected to %s", "the broker")
    assert logger.stream.getvalue() == "[INFO] connected to the broker\n"


def test_fields_follow_in_their_order_as_json(logger: Any) -> None:
    logger.warning(
        "sent", extra={"seq": 7, "topic": "a b", "at": None, "what": ValueError("x"), "e": "ü\n"}
    )
    assert logger.stream.getvalue() == (
        '[WARNING] sent seq=7 topic="a b" at=null what="x" e="\\u00fc\\n"\n'
    )


def test_a_traceback_follows_the_fields(logger: Any) -> None:
    try:
        raise KeyError("k")
    except KeyError:
        logger.exception("failed", extra={"seq": 7})
    first, second, *_, last = logger.stream.getvalue().splitlines()
    assert (first, second) == ("[ERROR] failed seq=7", "Traceback (most recent call last):")
    assert last == "KeyError: 'k'"


def test_formatting_twice_adds_nothing(logger: Any) -> None:
    record = logging.makeLogRecord({"msg": "sent", "levelname": "INFO", "seq": 7})
    formatter = FieldsFormatter("%(asctime)s %(message)s", "now")
    assert formatter.format(record) == formatter.format(record) == "now sent seq=7"
