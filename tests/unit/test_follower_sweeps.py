"""Many rows are deleted at once only if the vessel's digest agrees with what is left; a new epoch is the vessel's word."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arus.follower.outcome import LATE, SWEPT, UNREQUESTED
from arus.follower.sweep import FEW_PART
from arus.follower.vessels import VesselState
from tests.support.ship_model import ShipModel

from .test_follower_properties import FIELDS
from .test_follower_trust import Fleet

Messages = list[dict[str, Any]]


def fleet_of(rows: int) -> Fleet:
    """A vessel with so many rows of crew, all of them ashore."""
    fleet = Fleet("a")
    for number in range(rows):
        fleet.change("a", f"a{number}", name="Ann")
    fleet.settle()
    assert len(fleet.crew()) == rows
    return fleet


def state(fleet: Fleet) -> VesselState:
    return fleet.shore.applier.vessels["a"]


def answer(fleet: Fleet, request: dict[str, Any], by: ShipModel) -> None:
    """Have a vessel, or who says that he is one, answer a request."""
    for topic, messages in by.answers_to(request):
        if topic in {"crew", "equipment"}:
            fleet.shore.take(*[(f"catchup/{topic}", message) for message in messages])


def liar_of(ship: ShipModel) -> ShipModel:
    """Who speaks under a vessel's name and in its epoch, and has none of its rows."""
    liar = ShipModel(ship.vessel_id)
    liar.epoch, liar.seq, liar.heads = ship.epoch, ship.seq, dict(ship.heads)
    return liar


# -- catch-ups that were not requested -----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["log", "snapshot"])
@pytest.mark.parametrize("operation", ["update", "delete"])
def test_the_items_of_a_catchup_that_was_not_requested_change_no_row(
    mode: str, operation: str
) -> None:
    fleet = fleet_of(3)
    before, ship = fleet.crew(), fleet.ships["a"]
    position = state(fleet).positions["crew"].seq
    liar = liar_of(ship)
    liar.rows["crew", "a0"] = {"id": "a0", "version": 1, "name": "Ann"}
    liar.log_change("crew", {"name": "forged"}, operation if operation == "delete" else None, "a0")
    request = {"entity": "crew", "requestId": "another's", "sinceSeq": 0, "epoch": ship.epoch}
    answer(fleet, request if mode == "log" else {**request, "mode": "snapshot"}, liar)
    assert fleet.crew() == before
    assert fleet.counted(UNREQUESTED) > 0
    assert state(fleet).positions["crew"].seq == position
    assert state(fleet).caught_up


def test_a_catchup_of_a_vessel_that_is_not_known_is_ignored() -> None:
    fleet = Fleet("a")
    fleet.ships["a"].log_change("crew", {"name": "Ann"})
    answer(fleet, {"entity": "crew", "requestId": None}, fleet.ships["a"])
    assert fleet.shore.applier.vessels == {}


# -- epochs --------------------------------------------------------------------------------------------


def forged(kind: str, liar: ShipModel, request_id: str) -> tuple[str, dict[str, Any]]:
    """A message of another epoch that is not an online status."""
    common = {"catchupId": str(uuid4()), "vesselId": liar.vessel_id, "entity": "crew",
              "epoch": liar.epoch, "mode": "snapshot", "highSeq": liar.seq, "total": 0}  # fmt: skip
    begin = {**common, "type": "catchup_begin", "sinceSeq": None, "complete": True, "buckets": None}
    return {
        "catch-up": ("catchup/crew", {**begin, "requestId": None}),
        "answer": ("catchup/crew", {**begin, "requestId": request_id}),
        "end": ("catchup/crew", {**common, "type": "catchup_end", "requestId": request_id, "digest": "",
                                 "next": None}),
        "digest": ("system/digest", liar.digest_document(FIELDS)),
        "change": ("crew", liar.log_change("crew", {"name": "forged"}, row_id="a0")),
        "last will": ("system/status", liar.status_document(online=False)),
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["catch-up", "answer", "end", "digest", "change", "last will"])
def test_only_an_online_status_begins_a_new_epoch(kind: str) -> None:
    fleet = fleet_of(3)
    ship, before, late = fleet.ships["a"], fleet.crew(), fleet.counted(LATE)
    state(fleet).session_lost()
    (request,) = fleet.shore.ask()
    fleet.shore.take(forged(kind, ShipModel("a"), request["requestId"]))
    assert (state(fleet).epoch, fleet.crew()) == (ship.epoch, before)
    assert fleet.counted(LATE) == late + 1
    ship.restore()
    fleet.shore.take(("system/status", ship.status_document()))
    assert state(fleet).epoch == ship.epoch


@pytest.mark.parametrize("retained", [True, False])
def test_a_status_of_an_epoch_that_has_ended_does_not_begin_it_again(retained: bool) -> None:
    fleet = fleet_of(3)
    ship = fleet.ships["a"]
    stray = ship.status_document()
    ship.restore()
    fleet.settle()
    take = fleet.shore.take_retained if retained else fleet.shore.take
    take(("system/status", stray))
    assert state(fleet).epoch == ship.epoch
    # One that was not retained is a reason to ask the vessel, whose answer says that nothing has changed.
    assert len(fleet.shore.ask()) == (0 if retained else 1)
    fleet.settle()
    assert (state(fleet).epoch, state(fleet).caught_up) == (ship.epoch, True)
    assert fleet.crew() == fleet.aboard("a")


def test_an_invented_epoch_ends_with_the_vessels_answer_and_no_row_is_lost() -> None:
    fleet = fleet_of(700)
    ship, liar = fleet.ships["a"], ShipModel("a")
    liar.seq = 10_000
    fleet.shore.take(("system/status", liar.status_document()))
    assert state(fleet).epoch == liar.epoch
    # An empty catch-up that nobody has requested, and one under the id that was requested.
    requests = fleet.shore.ask()
    for request in ({"entity": "all", "requestId": None}, *requests):
        answer(fleet, {**request, "mode": "snapshot"}, liar)
        assert len(fleet.crew()) == 700
    fleet.settle(12)
    assert state(fleet).epoch == ship.epoch
    assert (fleet.crew(), fleet.counted(SWEPT)) == (fleet.aboard("a"), 0)
    assert not any(position.sweep for position in state(fleet).positions.values())


# -- sweeps --------------------------------------------------------------------------------------------


def answered_by_liar(fleet: Fleet, keeps: int) -> None:
    """A snapshot that was requested is answered by somebody who keeps only so many rows."""
    ship = fleet.ships["a"]
    liar = liar_of(ship)
    for key in list(ship.rows)[:keeps]:
        liar.rows[key] = ship.rows[key]
    position = state(fleet).positions["crew"]
    position.need = type(position.need).SNAPSHOT
    (request,) = fleet.shore.ask()
    answer(fleet, request, liar)


@pytest.mark.parametrize(("rows", "gone"), [(40, 4), (300, 30)])
def test_a_few_rows_are_swept_at_once(rows: int, gone: int) -> None:
    fleet = fleet_of(rows)
    answered_by_liar(fleet, rows - gone)
    assert len(fleet.crew()) == rows - gone


def test_many_small_sweeps_need_a_digest_too() -> None:
    fleet = fleet_of(300)
    for keeps, left in ((290, 290), (275, 275), (265, 275)):
        answered_by_liar(fleet, keeps)
        assert len(fleet.crew()) == left
    (request,) = fleet.shore.ask()
    assert request["mode"] == "digest"
    fleet.shore.take(("system/digest", fleet.ships["a"].digest_document(FIELDS)))
    assert len(fleet.crew()) == 275, "the vessel has those that are left"
    state(fleet).proved(state(fleet).seq)
    answered_by_liar(fleet, 265)
    assert len(fleet.crew()) == 265


def test_small_sweeps_before_and_after_a_restart_need_a_digest_too() -> None:
    fleet = fleet_of(40)
    answered_by_liar(fleet, 37)
    fleet.shore.start()
    answered_by_liar(fleet, 34)
    assert len(fleet.crew()) == 37
    fleet.settle()
    assert not state(fleet).is_sweeping, "the vessel has those that are left"


def test_a_snapshot_that_lacks_no_row_waits_for_no_digest() -> None:
    fleet = fleet_of(20)
    answered_by_liar(fleet, 18)
    assert len(fleet.crew()) == 18
    answered_by_liar(fleet, 18)
    assert state(fleet).positions["crew"].sweep is None


@pytest.mark.parametrize(("rows", "gone"), [(5, 5), (40, 5), (300, 31), (60, 60)])
def test_many_rows_are_swept_only_if_the_vessels_digest_agrees(
    rows: int, gone: int, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = fleet_of(rows)
    answered_by_liar(fleet, rows - gone)
    assert len(fleet.crew()) == rows
    assert "are deleted only if a digest of the vessel agrees" in caplog.text
    fleet.shore.start()  # it waits across a restart
    (request,) = fleet.shore.ask()
    assert (request["mode"], request["entity"]) == ("digest", "all")
    fleet.shore.take(("system/digest", fleet.ships["a"].digest_document(FIELDS)))
    assert fleet.crew() == fleet.aboard("a")
    assert f"{gone} rows of crew of a are not in its snapshot, but its digest" in caplog.text
    assert "contains them: they stay" in caplog.text
    assert state(fleet).positions["crew"].sweep is None


def deleted_aboard(fleet: Fleet, keeps: int) -> ShipModel:
    """Rows are deleted without a word of it, as by a restore from a copy; the follower gets a snapshot."""
    ship = fleet.ships["a"]
    for key in list(ship.rows)[keeps:]:
        del ship.rows[key]
    ship.restore()
    for _ in range(2):
        fleet.shore.take(("system/status", ship.status_document()))
        for request in fleet.shore.ask():
            if request.get("mode") != "digest":
                answer(fleet, request, ship)
    return ship


def test_what_the_vessel_has_no_longer_is_swept_when_its_digest_says_so() -> None:
    fleet = fleet_of(60)
    ship = deleted_aboard(fleet, 7)
    assert len(fleet.crew()) == 60
    # The digest that the broker has kept is not an answer.
    fleet.shore.take_retained(("system/digest", ship.digest_document(FIELDS)))
    assert len(fleet.crew()) == 60
    # Changes go on meanwhile, before and after the digest is made.
    fleet.change("a", "a0", name="Anna")
    digest = ship.digest_document(FIELDS)
    fleet.change("a", "new", name="Bo")
    fleet.shore.take(("system/digest", digest))
    assert fleet.crew() == fleet.aboard("a")
    assert len(fleet.crew()) == 8
    assert state(fleet).positions["crew"].sweep is None


def test_rows_are_swept_in_the_buckets_on_which_both_agree(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fleet = fleet_of(120)
    ship = deleted_aboard(fleet, 60)
    digest = ship.digest_document(FIELDS)
    buckets = digest["entities"]["crew"]["buckets"]
    buckets[:8] = ["0" * 15 + "1"] * 8
    fleet.shore.take(("system/digest", digest))
    assert 60 < len(fleet.crew()) < 80
    assert "does not agree with what would be left" in caplog.text
    sweep = state(fleet).positions["crew"].sweep
    assert sweep is not None
    assert (sweep.disputed, sweep.rows) == (True, len(fleet.crew()) - 60)
    fleet.settle()
    assert fleet.crew() == fleet.aboard("a")


def test_a_newer_snapshot_ends_a_sweep_that_waits() -> None:
    fleet = fleet_of(60)
    answered_by_liar(fleet, 0)
    assert state(fleet).positions["crew"].sweep is not None
    position = state(fleet).positions["crew"]
    position.need = type(position.need).SNAPSHOT
    fleet.settle()
    assert state(fleet).positions["crew"].sweep is None
    assert fleet.crew() == fleet.aboard("a")
    assert fleet.counted(SWEPT) == 0


STEP = st.one_of(
    st.tuples(st.just("liar answers"), st.integers(0, 30)),
    st.tuples(st.just("invents an epoch"), st.integers(0, 30)),
    st.tuples(st.just("restored to"), st.integers(0, 30)),
    st.tuples(st.just("delete"), st.integers(0, 30)),
    st.tuples(st.sampled_from(["stray status", "settle", "restart"]), st.integers(0, 30)),
)


def play(fleet: Fleet, what: str, number: Any, strays: Messages) -> None:  # noqa: C901  # one step a branch
    ship = fleet.ships["a"]
    strays.append(ship.status_document())
    match what:
        case "liar answers":
            liar = liar_of(ship)
            keys = list(ship.rows)
            liar.rows = {key: ship.rows[key] for key in keys[:number]}
            for request in fleet.shore.ask() or [{"entity": "crew", "requestId": "x"}]:
                answer(fleet, request, liar)
        case "invents an epoch":
            liar = ShipModel("a")
            liar.seq = number
            fleet.shore.take(("system/status", liar.status_document()))
            answer(fleet, {"entity": "all", "requestId": None, "mode": "snapshot"}, liar)
        case "restored to":
            for key in list(ship.rows)[number:]:
                del ship.rows[key]
            ship.restore()
            fleet.shore.take(("system/status", ship.status_document()))
        case "delete":
            if ("crew", f"a{number}") in ship.rows:
                fleet.change("a", f"a{number}", "delete")
        case "stray status":
            fleet.shore.take(("system/status", strays[number % len(strays)]))
        case "settle":
            fleet.settle(4)
        case "restart":
            fleet.shore.start()


@settings(deadline=None, max_examples=15)
@given(st.lists(STEP, max_size=8))
def test_whoever_answers_the_vessels_rows_stay_and_it_ends_equal(
    steps: list[tuple[str, Any]],
) -> None:
    fleet = fleet_of(30)
    ship, strays = fleet.ships["a"], [fleet.ships["a"].status_document()]
    for what, number in steps:
        play(fleet, what, number, strays)
        # A tenth may be gone until the next audit; a table is never emptied.
        assert len(set(fleet.aboard("a")) - set(fleet.crew())) <= 30 // FEW_PART * len(steps)
    fleet.settle(14)
    assert state(fleet).epoch == ship.epoch
    assert state(fleet).caught_up
    # What a liar has left in doubt stays until an audit repairs it, and is shown.
    disputed = any(one.sweep and one.sweep.disputed for one in state(fleet).positions.values())
    assert disputed or set(fleet.crew()) <= set(fleet.aboard("a"))
