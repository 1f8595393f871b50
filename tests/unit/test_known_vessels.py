"""Invented vessels: they use no room for long, and lock out nobody."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from arus.follower import known_vessels
from arus.follower.audits.fields import ComparedFields
from arus.follower.known_vessels import SILENCE
from arus.follower.outcome import FORGOTTEN
from arus.outbox.counters import read_counters
from arus.protocol.messages import EntityDigest
from arus.protocol.times import now_ms
from tests.support.ship_model import ShipModel

from .test_follower_trust import Fleet

MOST = 20


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """A vessel that has answered, and a follower that knows few vessels."""
    monkeypatch.setattr(known_vessels.KnownVessels.__init__, "__kwdefaults__", {"most": MOST})
    fleet = Fleet("ship-1")
    fleet.change("ship-1", "a", name="Ann")
    fleet.settle()
    return fleet


def invent(fleet: Fleet, count: int, *, rows: bool, start: int = 0) -> None:
    """Have so many vessels that do not exist publish something."""
    messages: list[tuple[str, Any]] = []
    for number in range(start, start + count):
        ship = ShipModel(f"ghost-{number}")
        change = ship.log_change("crew", {"name": "Boo"}, None, f"boo-{number}")
        messages.append(("crew", change) if rows else ("system/status", ship.status_document()))
    for at in range(0, count, 50):
        fleet.shore.take(*messages[at : at + 50])


def settle(fleet: Fleet) -> None:
    """Have the vessels that exist answer."""
    for _ in range(8):
        for request in fleet.shore.ask():
            ship = fleet.ships.get(request["vesselId"])
            for topic, messages in ship.answers_to(request) if ship else ():
                if topic in {"crew", "equipment"}:
                    fleet.shore.take(*((f"catchup/{topic}", message) for message in messages))


def known(fleet: Fleet) -> set[str]:
    return set(fleet.shore.applier.vessels)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [False, True], ids=["statuses", "rows"])
def test_invented_vessels_lock_out_no_real_one(
    fleet: Fleet, rows: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        invent(fleet, 1000, rows=rows)
    assert len(known(fleet)) <= MOST
    assert "ship-1" in known(fleet)
    assert caplog.text.count("Does somebody invent them?") == 1
    assert read_counters(fleet.shore.connection)[FORGOTTEN, "", "", ""] >= 1000 - MOST
    # One that is real is followed at once, and stays.
    late = fleet.ships["ship-2"] = ShipModel("ship-2")
    late.log_change("crew", {"name": "Bo"}, None, "b")
    for ship in fleet.ships.values():
        fleet.shore.take(("system/status", ship.status_document()))
    settle(fleet)
    invent(fleet, 500, rows=rows, start=5000)
    assert {"ship-1", "ship-2"} <= known(fleet)
    crew = fleet.crew()
    assert (crew["a"][1], crew["b"][1]) == ("Ann", "Bo")
    # Nothing is left of those that are forgotten.
    connection = fleet.shore.connection
    for table in ("arus_row", "arus_position", "arus_vessel"):
        rows_of = connection.exec_driver_sql(f"SELECT DISTINCT vessel_id FROM {table}").scalars()
        assert set(rows_of) <= known(fleet)
    assert len(crew) <= MOST
    fleet.shore.start()
    assert {"ship-1", "ship-2"} <= known(fleet)


def test_a_silent_vessel_that_has_proved_nothing_is_forgotten_after_an_hour(fleet: Fleet) -> None:
    invent(fleet, 3, rows=False)
    invent(fleet, 1, rows=True, start=10)
    assert len(known(fleet)) == 5
    assert fleet.shore.applier.expire() == []
    for vessel in fleet.shore.applier.vessels.values():
        vessel.heard_at = now_ms() - SILENCE
    assert sorted(fleet.shore.applier.expire()) == ["ghost-0", "ghost-1", "ghost-2"]
    assert known(fleet) == {"ship-1", "ghost-10"}, "one has a row here, one is proven"


def test_nothing_is_left_of_the_fields_and_positions_of_a_forgotten_vessel(fleet: Fleet) -> None:
    shore = fleet.shore
    fields = ComparedFields(shore.connection, shore.applier._copies)
    told = EntityDigest(topic="crew", last_seq=0, fields=("id", "shoeSize"))
    invent(fleet, 3, rows=False)
    for vessel_id in known(fleet):
        fields.agree(vessel_id, "crew", frozenset({"id"}), told)
    for vessel in shore.applier.vessels.values():
        vessel.heard_at = now_ms() - SILENCE
    gone = shore.applier.expire()
    assert len(gone) == 3
    for vessel_id in gone:
        fields.forget(vessel_id)
        assert fields.difference(vessel_id, "crew") is None
    left = shore.connection.exec_driver_sql("SELECT vessel_id FROM arus_compared").scalars().all()
    assert left == ["ship-1"]
    assert {vessel_id for vessel_id, _topic in shore.applier._store._saved} == {"ship-1"}


def test_if_all_are_proven_no_other_is_followed(fleet: Fleet) -> None:
    for number in range(2, MOST + 1):
        ship = fleet.ships[f"ship-{number}"] = ShipModel(f"ship-{number}")
        fleet.shore.take(("system/status", ship.status_document()))
    settle(fleet)
    before = known(fleet)
    assert len(before) == MOST
    invent(fleet, 10, rows=False)
    assert known(fleet) == before
