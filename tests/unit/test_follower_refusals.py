"""A row that the follower can't read or write is refused once: kept, named, passed, and not asked for again."""

from __future__ import annotations

import logging
from typing import Any

import orjson
import pytest

from arus.follower.outcome import REFUSED
from arus.follower.position import ANSWERS
from arus.follower.refusals import MAX_REFUSED, Refusal, read_refusals
from arus.follower.store import MAX_PARKED_OF_VESSEL
from arus.outbox.counters import read_counters
from arus.protocol.rows import MAX_DEPTH

from .test_follower_trust import Fleet


def nested(levels: int) -> Any:
    deep: Any = []
    for _ in range(levels):
        deep = [deep]
    return deep


#: What a vessel can send and this follower can't take, by what is said of it.
BAD_ROWS: dict[str, dict[str, Any]] = {
    "nested deeper": {"name": "a", "doc": nested(MAX_DEPTH + 1)},
    "name: not a text": {"name": 7},
    "name: it contains a NUL character": {"name": "a\0b"},
    "name is missing": {"name": None},
}
BAD_IDS = {"too long": "x" * 80, "NUL": "a\0b"}


def refusals(fleet: Fleet) -> list[Refusal]:
    return read_refusals(fleet.shore.connection)


def refused(fleet: Fleet) -> int:
    return read_counters(fleet.shore.connection).get((REFUSED, "", "", ""), 0)


def letters(fleet: Fleet, vessel_id: str = "ship-1") -> int:
    found = fleet.shore.connection.exec_driver_sql(
        "SELECT count(*) FROM arus_parked WHERE vessel_id = ?", (vessel_id,)
    )
    return int(found.scalar_one())


def wants(fleet: Fleet) -> list[str]:
    return [
        one.wants.value
        for vessel in fleet.shore.applier.vessels.values()
        for one in vessel.positions.values()
    ]


@pytest.fixture(params=[*BAD_ROWS, *BAD_IDS])
def bad(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], str]:
    """A row's id, its members, and what is said of it."""
    case = request.param
    if case in BAD_IDS:
        return BAD_IDS[case], {"name": "a"}, "the row's id is not a text"
    return "bad", BAD_ROWS[case], case


@pytest.mark.parametrize("joins", ["late", "early"])
def test_a_bad_row_is_refused_once_and_passed(bad: tuple[str, Any, str], joins: str) -> None:
    row_id, row, reason = bad
    fleet = Fleet("ship-1")
    ship = fleet.ships["ship-1"]
    if joins == "early":
        fleet.settle()
    for name in ("a", "b"):
        ship.log_change("crew", {"name": name}, None, name)
    ship.log_change("crew", row, None, row_id)
    ship.log_change("crew", {"name": "c"}, None, "c")
    if joins == "early":
        fleet.shore.take(*(("crew", message) for message in ship.log))
    fleet.settle(3)
    assert wants(fleet) == ["", ""]
    assert fleet.shore.watermark == 4
    assert sorted(fleet.crew()) == ["a", "b", "c"]
    (kept,) = refusals(fleet)
    assert reason in kept.reason
    assert (kept.version, kept.entity, kept.vessel_id) == (1, "crew", "ship-1")
    assert "\0" not in kept.row_id
    assert (refused(fleet), letters(fleet)) == (1, 1)
    # Nothing is asked for, and what comes once more is not refused once more.
    assert fleet.shore.ask() == []
    fleet.shore.take(*(("crew", message) for message in ship.log))
    for vessel in fleet.shore.applier.vessels.values():
        vessel.session_lost()
    fleet.settle(3)
    assert wants(fleet) == ["", ""]
    assert (refused(fleet), letters(fleet), len(refusals(fleet))) == (1, 1, 1)


def test_a_row_that_is_changed_to_one_that_can_be_read_is_applied(
    bad: tuple[str, Any, str],
) -> None:
    row_id, row, _ = bad
    fleet = Fleet("ship-1")
    fleet.settle()
    fleet.change("ship-1", row_id, **row)
    assert len(refusals(fleet)) == 1
    if row_id == "bad":
        fleet.change("ship-1", row_id, **dict.fromkeys(row) | {"name": "good"})
        assert fleet.crew() == {"bad": (2, "good")}
    else:  # an id can't change: the row is deleted
        fleet.change("ship-1", row_id, "delete")
    assert refusals(fleet) == []
    assert fleet.shore.watermark == 2


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_a_bad_version_leaves_the_last_good_one(reason: str) -> None:
    row_id, row = "bad", BAD_ROWS[reason]
    fleet = Fleet("ship-1")
    fleet.settle()
    fleet.change("ship-1", row_id, name="good")
    fleet.change("ship-1", row_id, **row)
    assert fleet.crew() == {"bad": (1, "good")}
    # It is in the snapshot, so it is not swept.
    ship = fleet.ships["ship-1"]
    ship.restore()
    fleet.settle()
    assert fleet.crew() == {"bad": (1, "good")}
    assert [kept.version for kept in refusals(fleet)] == [2]


def ask_for_snapshot(fleet: Fleet) -> None:
    for ship in fleet.ships.values():
        ship.prune()
    for vessel in fleet.shore.applier.vessels.values():
        for position in vessel.positions.values():
            position.need = type(position.need).SNAPSHOT


def test_a_snapshot_with_a_refused_row_refuses_it_no_second_time(bad: tuple[str, Any, str]) -> None:
    row_id, row, _ = bad
    fleet = Fleet("ship-1")
    fleet.settle()
    fleet.change("ship-1", row_id, **row)
    for _ in range(2):
        ask_for_snapshot(fleet)
        fleet.settle()
    assert wants(fleet) == ["", ""]
    assert (refused(fleet), letters(fleet), len(refusals(fleet))) == (1, 1, 1)


def test_a_row_that_never_arrives_in_a_snapshot_is_not_swept() -> None:
    fleet = Fleet("ship-1")
    fleet.settle()
    for name in "abc":
        fleet.change("ship-1", name, name=name)
    ask_for_snapshot(fleet)
    ship = fleet.ships["ship-1"]
    for _ in range(ANSWERS):
        for request in fleet.shore.ask():
            for topic, messages in ship.answers_to(request):
                arrive = [one for one in messages if one.get("data", {}).get("id") != "b"]
                if topic in {"crew", "equipment"}:
                    fleet.shore.take(*((f"catchup/{topic}", message) for message in arrive))
    assert wants(fleet) == ["", ""]
    assert sorted(fleet.crew()) == ["a", "b", "c"]


def test_a_refused_row_that_is_gone_aboard_is_forgotten() -> None:
    fleet = Fleet("ship-1")
    fleet.settle()
    fleet.change("ship-1", "bad", name=7)
    fleet.change("ship-1", "good", name="a")
    ship = fleet.ships["ship-1"]
    fleet.shore.start()  # what is kept is read again
    assert len(refusals(fleet)) == 1
    del ship.rows["crew", "bad"]
    ask_for_snapshot(fleet)
    fleet.settle()
    assert refusals(fleet) == []
    assert fleet.crew() == {"good": (1, "a")}


@pytest.mark.parametrize("pruned", [False, True], ids=["log", "snapshot"])
def test_an_item_that_never_arrives_is_given_up_after_some_answers(pruned: bool) -> None:
    """It is larger than the follower's MQTT_MAX_PACKET_SIZE: the broker discards it each time."""
    fleet = Fleet("ship-1")
    ship = fleet.ships["ship-1"]
    for name in "abcde":
        ship.log_change("crew", {"name": name}, None, name)
    if pruned:
        ship.prune()
    answers = 0
    for _ in range(ANSWERS + 3):
        fleet.shore.take(("system/status", ship.status_document()))
        for request in fleet.shore.ask():
            for topic, messages in ship.answers_to(request):
                answers += topic == "crew"
                arrive = [one for one in messages if one.get("data", {}).get("id") != "c"]
                if topic in {"crew", "equipment"}:
                    fleet.shore.take(*((f"catchup/{topic}", message) for message in arrive))
    assert answers == ANSWERS
    assert wants(fleet) == ["", ""]
    assert fleet.shore.watermark == 5
    assert sorted(fleet.crew()) == ["a", "b", "d", "e"]
    (kept,) = refusals(fleet)
    assert (kept.row_id, kept.entity) == ("", "crew")
    assert "1 items of catch-ups never arrive" in kept.reason


def test_an_answer_with_other_items_missing_each_time_is_asked_for_again() -> None:
    fleet = Fleet("ship-1")
    ship = fleet.ships["ship-1"]
    for number in range(20):
        ship.log_change("crew", {"name": f"n{number}"}, None, f"r{number:02}")
    ship.prune()
    for number in range(ANSWERS + 2):
        for request in fleet.shore.ask() or ():
            for topic, messages in ship.answers_to(request):
                if topic == "crew":
                    del messages[number + 1]
                if topic in {"crew", "equipment"}:
                    fleet.shore.take(*((f"catchup/{topic}", message) for message in messages))
        fleet.shore.take(("system/status", ship.status_document()))
    assert "everything" in wants(fleet)
    fleet.settle()
    assert wants(fleet) == ["", ""]
    assert len(fleet.crew()) == 20
    assert refusals(fleet) == []


def test_refused_rows_and_dead_letters_are_bounded_for_each_vessel(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fleet = Fleet("ship-1", "ship-2")
    fleet.settle()
    fleet.change("ship-2", "bad", name=7)
    ship = fleet.ships["ship-1"]
    with caplog.at_level(logging.WARNING):
        messages = [
            ("crew", ship.log_change("crew", {"name": 7}, None, f"r{number}"))
            for number in range(MAX_REFUSED + 50)
        ]
        fleet.shore.take(*messages)
    assert len(refusals(fleet)) == MAX_REFUSED + 1
    assert caplog.text.count("rows of ship-1 are refused already") == 1
    assert len(caplog.records) < 20
    assert letters(fleet) == MAX_PARKED_OF_VESSEL
    assert letters(fleet, "ship-2") == 1
    fleet.settle()
    assert wants(fleet) == ["", "", "", ""]


def test_a_message_that_is_no_json_changes_nothing() -> None:
    fleet = Fleet("ship-1")
    fleet.change("ship-1", "a", name="a")
    fleet.settle()
    before = orjson.dumps(fleet.shore.watermark)
    for payload in (b"[" * 100_000, b"\xff", b"{"):
        fleet.shore.take_raw("crew", payload)
    assert orjson.dumps(fleet.shore.watermark) == before
    assert refused(fleet) == 3
    assert refusals(fleet) == []
