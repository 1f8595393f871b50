"""The lists of two people become one: nothing that either has added is lost, nothing that either has removed comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blueprints.work_orders.steps import keyed, listed, merged, ticked

TEXTS = st.lists(st.sampled_from("abcde"), max_size=6)


def steps(text: str) -> list[dict[str, object]]:
    """`a B c`: three steps, the second of them done."""
    return [{"text": word.lower(), "done": word.isupper()} for word in text.split()]


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "expected"),
    [
        ("a b c", "a b c", "a b c", "a b c"),
        ("a b c", "a x b c", "a b c y", "a x b c y"),
        ("a b c", "a c", "a b c y", "a c y"),
        ("a b c", "a b", "b c", "b"),
        ("a b", "a x b", "a x b", "a x b"),
        ("a b", "a x b", "a y b", "a y x b"),
        ("a b", "a x", "a y", "a y x"),
        ("", "x", "y", "y x"),
        ("a", "", "", ""),
    ],
)
def test_two_edits_become_one_list(base: str, mine: str, theirs: str, expected: str) -> None:
    assert merged(base.split(), mine.split(), theirs.split()) == expected.split()


@given(TEXTS, TEXTS)
def test_who_has_edited_nothing_changes_nothing(base: list[str], now: list[str]) -> None:
    assert merged(base, now, base) == now
    assert merged(base, base, now) == now
    assert merged(base, now, now) == now


@given(TEXTS, TEXTS, TEXTS)
def test_nothing_is_lost_and_nothing_comes_back(
    base: list[str], mine: list[str], theirs: list[str]
) -> None:
    result = merged(base, mine, theirs)
    assert set(result) <= set(base) | set(mine) | set(theirs)
    assert {each for each in mine + theirs if each not in base} <= set(result)
    assert not {each for each in base if each not in mine + theirs} & set(result)


def test_what_stays_in_the_list_stays_ticked() -> None:
    assert listed(["c", "a", "new"], steps("A b C")) == steps("C A new")
    assert listed(["a", "a"], steps("a A")) == steps("a A")


def test_one_step_is_ticked_by_its_text() -> None:
    assert ticked(steps("a b c"), ("b", 0), done=True) == steps("a B c")
    assert ticked(steps("a b a"), ("a", 1), done=True) == steps("a b A")
    assert ticked(steps("A b"), ("a", 0), done=False) == steps("a b")
    assert ticked(steps("a b"), ("gone", 0), done=True) is None


def test_steps_with_the_same_text_are_told_apart() -> None:
    assert list(keyed(steps("a b a"))) == [("a", 0), ("b", 0), ("a", 1)]
