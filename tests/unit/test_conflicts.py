"""Conflicts: both sides come to the same row, whichever of them decides."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from arus.protocol.conflicts import (
    Decision,
    Side,
    Winner,
    fields_that_differ,
    last_writer,
    not_after,
    proposal_wins,
    report,
    vessel_wins,
)
from arus.protocol.encoding import encode

LOCAL = Side({"id": "1", "version": 5, "name": "a", "hours": 2.0}, 5, 1000, "ship-1")
REMOTE = Side({"id": "1", "version": 5, "name": "b", "hours": 2}, 5, 1000, "shore")

rows = st.none() | st.dictionaries(st.sampled_from("abc"), st.integers(0, 2) | st.floats(0, 1))
sides = st.builds(
    Side, rows, st.integers(1, 3), st.integers(0, 2), st.sampled_from(["ship", "shore"])
)


@pytest.mark.parametrize(
    ("changes", "winner", "rule"),
    [
        ({"version": 6, "at": 0}, Winner.REMOTE, "version"),
        ({"version": 4, "at": 2000}, Winner.LOCAL, "version"),
        ({"at": 1001, "origin": "a"}, Winner.REMOTE, "time"),
        ({"at": 999}, Winner.LOCAL, "time"),
        ({}, Winner.REMOTE, "origin"),
        ({"origin": "a"}, Winner.LOCAL, "origin"),
        ({"origin": "ship-1"}, Winner.REMOTE, "content"),
        ({"origin": "ship-1", "row": None}, Winner.LOCAL, "content"),
        ({"origin": "ship-1", "row": LOCAL.row}, Winner.LOCAL, "same"),
    ],
)
def test_the_last_writer_stands(changes: dict[str, Any], winner: Winner, rule: str) -> None:
    assert last_writer(LOCAL, replace(REMOTE, **changes)) == Decision(winner, rule)


@given(sides, sides)
def test_told_the_other_way_round_the_same_row_stands(one: Side, other: Side) -> None:
    def stands(local: Side, remote: Side) -> Side:
        return local if last_writer(local, remote).winner is Winner.LOCAL else remote

    chosen, also = stands(one, other), stands(other, one)
    assert (chosen.version, chosen.at, chosen.origin) == (also.version, also.at, also.origin)
    assert not fields_that_differ(chosen.row, also.row)


def test_other_policies() -> None:
    assert vessel_wins(LOCAL, REMOTE).winner is Winner.LOCAL
    assert proposal_wins(LOCAL, REMOTE).winner is Winner.REMOTE


def test_the_fields_that_differ() -> None:
    assert fields_that_differ(LOCAL.row, REMOTE.row) == ["name"], "2.0 and 2 are one number in JSON"
    assert fields_that_differ(LOCAL.row, None) == ["hours", "id", "name"]
    assert fields_that_differ({"a": None}, {}) == ["a"]
    assert fields_that_differ(None, None) == []


def test_a_clock_that_is_ahead_does_not_win() -> None:
    assert not_after(replace(REMOTE, at=9_999), 1_500).at == 1_500
    assert not_after(REMOTE, 1_500).at == 1_000


def test_the_report() -> None:
    told = report(
        "p-1", "crew", "1", LOCAL, REMOTE, Decision(Winner.REMOTE, "origin"), version=6, at=1795334400000
    )  # fmt: skip
    assert orjson.loads(encode(told)) == {
        "id": "p-1",
        "conflictId": "p-1",
        "entity": "crew",
        "rowId": "1",
        "local": LOCAL.row,
        "remote": REMOTE.row,
        "fields": ["name"],
        "winner": "remote",
        "rule": "origin",
        "version": 6,
        "resolvedAt": "2026-11-22T08:00:00.000Z",
        "origin": "shore",
    }
