"""Texts are compared as people compare them, in every language."""

# ruff: noqa: RUF001  # the texts are in these scripts on purpose

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extensions.texts import MAX_KEY, fold, search_form, sort_key

TEXTS = st.text(max_size=60)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("PUMP", "pump"),
        ("ØRSTED", "ørsted"),
        ("НАСОС", "насос"),
        ("Cafe\N{COMBINING ACUTE ACCENT}", "CAFÉ"),
        ("STRASSE", "Straße"),
        ("ΚΑΠΕΤΑΝΙΟΣ", "καπετάνιος"),
        ("İSTANBUL", "istanbul"),
        ("ＡＢ１", "ab1"),
        ("ﬁlter", "FILTER"),
        ("port\r\n\tside", "port side"),
        ("soft\N{SOFT HYPHEN}ware", "software"),
    ],
)
def test_two_ways_to_write_one_word_are_the_same(one: str, other: str) -> None:
    assert fold(one) == fold(other)
    assert sort_key(one) == sort_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("pump 1", "pump 01"), ("mål", "mal"), ("øre", "ore"), ("ий", "ии")]
)
def test_different_words_are_different(one: str, other: str) -> None:
    assert fold(one) != fold(other)
    assert sort_key(one) != sort_key(other)


@pytest.mark.parametrize(
    ("sought", "text"),
    [
        ("cafe", "Café 2"),
        ("CAFÉ", "cafe"),
        ("muller", "Jörg Müller"),
        ("mal", "Mål"),
        ("orsted", "ØRSTED"),
        ("елка", "Ёлка"),
        ("καπετανιος", "Καπετάνιος"),
        ("ハ\N{COMBINING KATAKANA-HIRAGANA VOICED SOUND MARK}ルブ", "バルブ"),
        ("펌프", "주 펌프"),
    ],
)
def test_a_text_is_found_without_the_accents_on_its_letters(sought: str, text: str) -> None:
    assert search_form(sought) in search_form(text)


@pytest.mark.parametrize(("sought", "text"), [("ий", "ии"), ("가", "각"), ("ハ", "バ")])
def test_letters_of_their_own_are_not_taken_for_others(sought: str, text: str) -> None:
    assert search_form(sought) not in search_form(text)


@pytest.mark.parametrize(
    "words",
    [
        ["apple", "Zebra"],
        ["Pump 2", "pump 10", "PUMP 100", "Pumpe"],
        ["No.01", "No.1", "No.2", "No.12"],
        ["Café", "cafeteria"],
        ["cafe", "Café", "cafes"],
        ["eclair", "Éclair 2", "fan"],
        ["Насос 2", "насос 10"],
        ["a" * 300 + "1", "a" * 300 + "2"],
    ],
)
def test_a_list_is_in_the_order_that_people_expect(words: list[str]) -> None:
    shuffled = [words[-1], *words[:-1]]
    assert sorted(shuffled, key=sort_key) == words


@given(TEXTS)
def test_the_form_of_a_text_does_not_matter(text: str) -> None:
    for form in ("NFC", "NFD"):
        assert fold(unicodedata.normalize(form, text)) == fold(text)
    assert fold(fold(text)) == fold(text)


@given(TEXTS, TEXTS)
def test_keys_are_equal_if_and_only_if_the_folded_texts_are(one: str, other: str) -> None:
    assert (sort_key(one) == sort_key(other)) == (fold(one) == fold(other))


@given(st.text(max_size=2000))
def test_a_key_fits_the_index_of_every_database(text: str) -> None:
    key = sort_key(text)
    assert len(key) <= MAX_KEY
    assert "\0" not in key
