from __future__ import annotations

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from blueprints.ui.i18n import init_i18n
from blueprints.ui.inputs import lines_of, pairs_of, pairs_text

SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20)
DOCUMENTS = st.dictionaries(
    st.text(max_size=12),
    SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(), SCALARS),
)


@given(DOCUMENTS)
def test_a_document_survives_its_form(document: dict[str, object]) -> None:
    assert (pairs_of(pairs_text(document)) or {}) == document


def test_a_form_reads_as_one_would_write_it() -> None:
    document = {"powerKw": 660, "class": "DNV", "drawing": "601", "twoStroke": True}
    text = 'powerKw: 660\nclass: DNV\ndrawing: "601"\ntwoStroke: true'
    assert pairs_text(document) == text
    assert pairs_of("  powerKw :660 \r\n\r\nmaker:  MAN: Energy  \n") == {
        "powerKw": 660,
        "maker": "MAN: Energy",
    }


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        *((each, each) for each in ("1.10", "1234567890123456789012345", "1e5", "-0")),
        ("1.5", 1.5),
        ("-3", -3),
        ("1e+22", 1e22),
        ("[1.5, 2]", [1.5, 2]),
    ],
)
def test_what_would_not_be_written_so_as_a_number_is_a_text(typed: str, read: object) -> None:
    assert pairs_of(f"firmware: {typed}") == {"firmware": read}
    assert pairs_text({"firmware": read}) == f"firmware: {typed}"


def test_a_line_in_which_nothing_is_seen_is_no_step() -> None:
    assert lines_of(" Drain \n\u200b\n \nClose\u200b") == ["Drain", "Close\u200b"]


@pytest.mark.parametrize("text", ["no colon", ": no name", "a: 1\na: 2", "{not json", "[1]"])
def test_what_is_no_document_is_refused_with_a_reason(text: str) -> None:
    app = Flask(__name__)
    app.config["SHIP_TIMEZONE"] = "UTC"
    init_i18n(app)
    with app.test_request_context(), pytest.raises(ValueError, match=r"."):
        pairs_of(text)
