"""A follower that has proved more than its vessel has: it says so, and waits for the vessel's new epoch."""

from __future__ import annotations

import logging

import pytest

from arus.follower import vessels
from arus.follower.outcome import EPOCHS
from arus.follower.vessels import VesselState
from tests.support.ship_model import ShipModel

from .test_follower_trust import Fleet


@pytest.fixture
def fleet() -> Fleet:
    """Everything up to 20 is applied; up to 15 it was requested, so it is proved."""
    fleet = Fleet("a")
    ship = fleet.ships["a"]
    for number in range(15):
        ship.log_change("crew", {"name": "Ann"}, row_id=f"a{number}")
    fleet.settle()
    for number in range(15, 20):
        fleet.change("a", f"a{number}", name="Bo")
    fleet.settle()
    assert fleet.crew() == fleet.aboard("a")
    return fleet


def state(fleet: Fleet) -> VesselState:
    return fleet.shore.applier.vessels["a"]


def restored(fleet: Fleet, seq: int) -> ShipModel:
    """The vessel is put back to an older copy, in the same epoch, and goes on: a row has another content."""
    ship = fleet.ships["a"]
    ship.log = [message for message in ship.log if message["seq"] <= seq]
    ship.rows = {("crew", m["data"]["id"]): m["data"] for m in ship.log}
    ship.seq, ship.heads = seq, {"crew": seq}
    ship.log_change("crew", {"name": "after"}, row_id="a0")
    return ship


def test_it_keeps_what_is_proved_and_says_so(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    before = fleet.crew()
    ship = restored(fleet, 10)
    caplog.clear()
    for _ in range(3):
        with caplog.at_level(logging.ERROR):
            fleet.shore.take(("system/status", ship.status_document()))
        assert (state(fleet).seq, state(fleet).ahead_of) == (20, 11)
        for request in fleet.shore.ask():
            for topic, messages in ship.answers_to(request):
                if topic in {"crew", "equipment"}:
                    fleet.shore.take(*[(f"catchup/{topic}", message) for message in messages])
        fleet.shore.start()
    assert fleet.crew() == before
    assert "a reports 11 as its last number, but everything up to 20 is applied" in caplog.text
    assert len(caplog.records) == 1, "it is said once"
    ship.restore()
    fleet.settle()
    assert (fleet.crew(), state(fleet).ahead_of) == (fleet.aboard("a"), None)


def test_it_believes_a_vessel_that_begins_no_epoch_after_a_while(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship = restored(fleet, 10)
    fleet.settle()
    assert state(fleet).ahead_of == 11
    monkeypatch.setattr(vessels, "CLAIM", 0.0)
    fleet.settle()
    vessel = state(fleet)
    assert (vessel.seq, vessel.ahead_of, vessel.caught_up) == (ship.seq, None, True)
    assert fleet.counted(EPOCHS) == 0


def test_a_forged_low_status_is_cleared_by_the_vessels_answer(fleet: Fleet) -> None:
    ship = fleet.ships["a"]
    fleet.shore.take(("system/status", {**ship.status_document(), "seq": 3, "topics": {}}))
    assert state(fleet).ahead_of == 3
    for request in fleet.shore.ask():
        for topic, messages in ship.answers_to(request):
            if topic in {"crew", "equipment"}:
                fleet.shore.take(*[(f"catchup/{topic}", message) for message in messages])
    assert (state(fleet).ahead_of, state(fleet).caught_up, state(fleet).seq) == (None, True, 20)


def test_numbers_that_were_only_received_are_not_held_on_to(fleet: Fleet) -> None:
    """The vessel may never have assigned them: who forges changes must not make it begin an epoch."""
    ship = restored(fleet, 17)
    fleet.shore.take(("system/status", ship.status_document()))
    assert state(fleet).ahead_of is None
    fleet.settle()
    assert (state(fleet).seq, state(fleet).caught_up) == (18, True)
