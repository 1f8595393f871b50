"""All vessels' catch-ups share one window, so that the broker drops nothing of what waits for the follower."""

from __future__ import annotations

from random import Random

import pytest

from arus.follower.position import Need, Position
from arus.follower.requests import Patience, ask
from arus.follower.vessels import VesselState
from arus.follower.windows import LEAST, WINDOW, Windows

PATIENCE = Patience()
NOW = 1_000_000


def vessel_of(name: str, need: Need = Need.EVERYTHING) -> VesselState:
    positions = {topic: Position(topic, topic, need=need) for topic in ("crew", "alerts")}
    return VesselState(name, "epoch", online=True, positions=positions)


def asked(windows: Windows, vessels: list[VesselState], now: int = NOW) -> list[str]:
    """The vessels that are asked for something now."""
    ready = windows.give(vessels, now, PATIENCE)
    return [one.vessel_id for one in ready if ask(one, now, PATIENCE, lambda: "id")]


def test_a_vessel_alone_has_all_of_it() -> None:
    windows, vessel = Windows(), vessel_of("a")
    assert asked(windows, [vessel]) == ["a"]
    assert windows.of("a") == WINDOW


@pytest.mark.parametrize("count", [2, 5, 8, 9, 150])
def test_several_share_it(count: int) -> None:
    windows, vessels = Windows(), [vessel_of(f"v{number}") for number in range(count)]
    first = asked(windows, vessels)
    assert len(first) == min(count, WINDOW // LEAST)
    assert sum(windows.of(name) for name in first) <= WINDOW
    assert asked(windows, vessels) == []


def test_the_next_one_is_asked_when_one_has_caught_up() -> None:
    windows, vessels = Windows(), [vessel_of(f"v{number}") for number in range(9)]
    assert len(asked(windows, vessels)) == 8
    for position in vessels[0].positions.values():
        position.need, position.request = Need.NOTHING, None
    assert asked(windows, vessels) == ["v8"]


def test_one_that_does_not_answer_holds_up_nobody() -> None:
    windows, vessels = Windows(), [vessel_of(f"v{number}") for number in range(20)]
    seen: set[str] = set()
    now = NOW
    for _ in range(60):
        now += 10_000
        seen.update(asked(windows, vessels, now))
    assert len(seen) == 20


def test_what_is_given_never_exceeds_the_window() -> None:
    random = Random(7)  # no secret
    windows, vessels = Windows(), [vessel_of(f"v{number}", Need.NOTHING) for number in range(30)]
    now = NOW
    for _ in range(400):
        now += random.randrange(30_000)
        vessel = random.choice(vessels)
        for position in vessel.positions.values():
            position.need = random.choice([Need.NOTHING, Need.CHANGES, Need.EVERYTHING])
            if position.request is not None and random.random() < 0.5:
                position.request.heard_at = now
        asked(windows, vessels, now)
        assert sum(windows._given.values()) <= WINDOW


def proven(name: str, need: Need = Need.CHANGES) -> VesselState:
    vessel = vessel_of(name, need)
    vessel.is_proven = True
    return vessel


def test_invented_vessels_do_not_hold_up_one_that_has_answered() -> None:
    windows, ship = Windows(), proven("ship", Need.NOTHING)
    invented = [vessel_of(f"v{number}") for number in range(50)]
    assert asked(windows, [ship, *invented])
    for position in ship.positions.values():
        position.need = Need.CHANGES
    assert asked(windows, [*invented, ship], NOW + 500) == ["ship"]


def test_proven_vessels_that_answer_no_more_do_not_hold_up_others_for_long() -> None:
    windows, ship = Windows(), proven("ship", Need.NOTHING)
    gone = [proven(f"v{number}") for number in range(8)]
    for now in range(NOW, NOW + 25_000, 500):
        asked(windows, [*gone, ship], now)
    for position in ship.positions.values():
        position.need = Need.CHANGES
    assert "ship" in asked(windows, [*gone, ship], NOW + 25_000)


def test_one_vessel_leaves_room_for_another() -> None:
    windows, gone, ship = Windows(), proven("gone"), proven("ship", Need.NOTHING)
    assert asked(windows, [gone, ship]) == ["gone"]
    for position in ship.positions.values():
        position.need = Need.CHANGES
    assert asked(windows, [gone, ship], NOW + 500) == ["ship"]


def test_a_vessel_that_does_not_answer_is_left_the_smallest_window() -> None:
    windows, gone = Windows(), proven("gone")
    assert asked(windows, [gone]) == ["gone"]
    assert asked(windows, [gone], NOW + 20_000) == ["gone"]
    assert windows.of("gone") == LEAST


def test_where_no_vessel_has_answered_yet_they_share_all_of_it() -> None:
    windows, vessels = Windows(), [vessel_of(f"v{number}") for number in range(30)]
    assert len(asked(windows, vessels)) == WINDOW // LEAST
