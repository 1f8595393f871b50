"""The receiver's algorithm, case by case."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.follower.inbound import Begin, End, Heads
from arus.follower.position import (
    Need,
    Patience,
    Position,
    Ranges,
    Request,
    VesselState,
    ask,
    chained,
    is_news,
    link_of,
)

PATIENCE = Patience()


def begin(request_id: str | None = "r1", mode: str = "log", **changes: object) -> Begin:
    fields: dict[str, object] = {
        "vessel_id": "ship", "epoch": "e", "topic": "crew", "entity": "crew", "catchup_id": "c1",
        "request_id": request_id, "mode": mode, "high_seq": 10, "total": 1, "since_seq": 0,
        "complete": mode == "snapshot", "buckets": None,
    }  # fmt: skip
    return Begin(**{**fields, **changes})  # type: ignore[arg-type]


def end(request_id: str | None = "r1", mode: str = "log", **changes: object) -> End:
    fields: dict[str, object] = {
        "vessel_id": "ship", "epoch": "e", "topic": "crew", "catchup_id": "c1",
        "request_id": request_id, "mode": mode, "high_seq": 10, "total": 1,
        "digest": chained("", "i0"), "next": None,
    }  # fmt: skip
    return End(**{**fields, **changes})  # type: ignore[arg-type]


def vessel(**needs: Need) -> VesselState:
    state = VesselState("ship", "e")
    for topic, need in needs.items():
        state.positions[topic] = Position(topic, topic, need=need)
    return state


def requests(state: VesselState, now: int = 0, *ids: str) -> list[dict[str, object]]:
    names = iter(ids or ("r1", "r2", "r3"))
    return ask(state, now, PATIENCE, lambda: next(names))


def test_what_follows_without_a_gap_moves_the_position() -> None:
    position = Position("crew", "crew")
    assert [position.applied(*numbers) for numbers in ((0, 1), (1, 4), (2, 5))] == [False] * 3
    assert (position.seq, position.wants) == (5, Need.NOTHING)


def test_a_gap_closes_when_what_was_missing_comes_late() -> None:
    position = Position("crew", "crew", seq=1)
    assert position.applied(3, 5)
    assert not position.applied(5, 8)
    assert (position.seq, position.beyond, position.wants) == (1, [(3, 8)], Need.CHANGES)
    position.applied(1, 2)
    position.applied(2, 3)
    assert (position.seq, position.beyond, position.wants) == (8, [], Need.NOTHING)


def test_a_log_that_begins_above_the_position_proves_nothing() -> None:
    position = Position("crew", "crew", seq=3)
    position.applied(5, 6)
    position.request = Request("r1", 0)
    assert not position.begin(begin(since_seq=4), 0).useful
    assert not position.begin(begin(since_seq=None), 0).useful
    assert position.begin(begin(since_seq=3), 0).useful


@pytest.mark.parametrize("need", [Need.CHANGES, Need.EVERYTHING, Need.SNAPSHOT, Need.ROWS])
@pytest.mark.parametrize("mode", ["log", "snapshot"])
@pytest.mark.parametrize("request_id", [None, "", "somebody else's"])
def test_a_catchup_that_was_not_asked_for_proves_nothing(
    need: Need, mode: str, request_id: str | None
) -> None:
    state = vessel(crew=need)
    position = state.positions["crew"]
    position.buckets = (1,) if need is Need.ROWS else ()
    requests(state)
    buckets = (1,) if need is Need.ROWS else None
    position.begin(begin(request_id, mode, buckets=buckets), 0)
    position.item("c1", 0, "i0", 0)
    assert position.end(end(request_id, mode), 0) is None
    assert (position.seq, position.wants, position.mark) == (0, need, 0)


def test_what_somebody_else_asked_for_does_not_break_off_the_answer() -> None:
    state = vessel(crew=Need.CHANGES)
    position = state.positions["crew"]
    requests(state)
    position.begin(begin(), 0)
    position.begin(begin("somebody else's", catchup_id="c2"), 0)
    position.item("c2", 0, "i0", 0)
    position.item("c1", 0, "i0", 0)
    assert position.end(end("somebody else's", catchup_id="c2"), 0) is None
    assert position.end(end(), 0) is not None
    assert (position.seq, position.proven, position.wants) == (10, 10, Need.NOTHING)


def test_the_late_answer_to_the_same_question_serves() -> None:
    state = vessel(crew=Need.CHANGES)
    for turn in range(3):
        requests(state, turn * 10**6, f"r{turn}")
    position = state.positions["crew"]
    assert position.request is not None
    assert position.request.id != "r0"
    assert position.begin(begin("r0"), 0).useful


def test_a_snapshot_of_other_buckets_than_those_asked_for_proves_nothing() -> None:
    state = vessel(crew=Need.ROWS)
    position = state.positions["crew"]
    position.buckets = (1, 2)
    requests(state)
    for buckets in ((1, 2, 3), (1,), None):
        assert not position.begin(begin(mode="snapshot", buckets=buckets), 0).useful
    assert position.begin(begin(mode="snapshot", buckets=(2, 1)), 0).useful


def test_an_answer_whose_head_is_below_the_position_takes_it_back_to_what_was_proved() -> None:
    state = vessel(crew=Need.NOTHING)
    position = state.positions["crew"]
    position.seq, position.proven = 40, 7
    assert position.applied(41, 10**9)
    (request,) = requests(state, 0, "r1")
    assert request["sinceSeq"] == 40
    answer = begin(high_seq=30, since_seq=40)
    assert state.disproves(answer)
    state.retract(position, 30)
    state.begun(answer, 0)
    assert (position.seq, position.beyond, position.wants) == (7, [], Need.CHANGES)
    assert state.head == 30
    assert not state.disproves(answer), "once is enough"


def test_a_proof_above_the_head_was_none() -> None:
    state = vessel(crew=Need.NOTHING)
    position = state.positions["crew"]
    position.seq = position.proven = 10**9
    state.announced(30)
    requests(state)
    state.retract(position, 30)
    assert (position.seq, position.proven, position.wants) == (0, 0, Need.CHANGES)


def test_a_head_below_a_position_is_looked_into() -> None:
    state = vessel(crew=Need.NOTHING, alerts=Need.NOTHING)
    state.positions["crew"].reach(40)
    state.announced(40)
    assert state.caught_up
    state.announced(39)
    assert [one.wants for one in state.positions.values()] == [Need.CHANGES, Need.NOTHING]


@pytest.mark.parametrize(
    "spoilt", [{"digest": "0" * 64}, {"total": 2}, {"next": "cursor"}, {"catchup_id": "c2"}]
)
def test_an_end_that_does_not_fit_is_asked_for_again(spoilt: dict[str, Any]) -> None:
    state = vessel(crew=Need.CHANGES)
    position = state.positions["crew"]
    assert len(requests(state)) == 1
    position.begin(begin(), 0)
    position.item("c1", 0, "i0", 0)
    assert position.end(end(**spoilt), 1000) is None
    assert requests(state, 1500) == []
    (again,) = requests(state, 10_000, "r9")
    assert again["requestId"] == "r9"


def test_a_snapshot_of_another_epoch_is_the_only_cure() -> None:
    state = vessel(crew=Need.NOTHING)
    state.begin_epoch("f")
    position = state.positions["crew"]
    (request,) = requests(state)
    assert request["mode"] == "snapshot"
    assert not position.begin(begin(), 0).useful
    assert not position.begin(begin(mode="snapshot", complete=False), 0).useful
    run = position.begin(begin(mode="snapshot"), 0)
    assert run.useful
    position.item("c1", 0, "i0", 0)
    proof = position.end(end(mode="snapshot"), 0)
    assert proof is not None
    assert proof.sweep == run.mark > 0


def test_must_refetch_asks_for_everything() -> None:
    state = vessel(crew=Need.CHANGES)
    position = state.positions["crew"]
    (request,) = requests(state)
    assert request["sinceSeq"] == 0
    position.begin(begin(mode="must_refetch"), 0)
    position.end(end(mode="must_refetch", total=0, digest=""), 0)
    (request,) = requests(state)
    assert "sinceSeq" not in request


def test_a_number_from_the_future_is_not_asked_for_without_end() -> None:
    state = vessel(crew=Need.NOTHING)
    position = state.positions["crew"]
    position.applied(2**50, 2**50 + 1)
    now, asked = 0, 0
    for turn in range(200):
        now += 1000
        for request in requests(state, now, f"r{turn}"):
            asked += 1
            position.begin(begin(str(request["requestId"]), total=0), now)
            position.end(end(str(request["requestId"]), total=0, digest=""), now)
    assert asked < 10


def test_nothing_is_asked_again_while_the_vessel_is_away() -> None:
    state = vessel(crew=Need.CHANGES)
    state.online = False
    assert len(requests(state)) == 1
    assert requests(state, 10**9) == []
    state.online = True
    assert len(requests(state, 10**9)) == 1


def test_one_request_serves_all_topics_that_want_the_same() -> None:
    state = vessel(crew=Need.CHANGES, alerts=Need.CHANGES)
    state.positions["crew"].seq, state.positions["alerts"].seq = 7, 5
    (request,) = requests(state)
    assert (request["entity"], request["sinceSeq"]) == ("all", 5)


def test_a_clock_that_was_set_back_delays_no_request_for_long() -> None:
    state = vessel(crew=Need.CHANGES)
    requests(state, 10**12)
    assert requests(state, 1000) == []
    assert len(requests(state, 1000 + 10**5)) == 1


def test_heads_carry_the_watermark_over_numbers_that_nobody_hears() -> None:
    state = vessel(crew=Need.NOTHING, alerts=Need.NOTHING)
    state.positions["crew"].reach(4)
    state.positions["alerts"].reach(9)
    state.settle()
    assert state.seq == 4
    state.told(Heads("ship", "e", 12, {"crew": 4, "alerts": 9}))
    assert state.seq == 12
    state.told(Heads("ship", "e", 20, {"crew": 15, "alerts": 9}))
    assert state.seq == 12
    assert state.behind(Heads("ship", "e", 20, {"crew": 15})) == [state.positions["crew"]]


def test_the_watermark_grows_with_each_number_in_turn() -> None:
    state = vessel(crew=Need.NOTHING, alerts=Need.NOTHING)
    for number in (1, 2, 4, 3, 6):
        state.counted(number)
    state.settle()
    assert (state.seq, state.head) == (4, 6)


def test_nothing_is_claimed_before_what_was_there_first_has_come() -> None:
    state = vessel(crew=Need.EVERYTHING)
    state.counted(1)
    state.told(Heads("ship", "e", 5, {}))
    assert state.seq == 0


def test_in_the_same_version_only_a_snapshot_is_news() -> None:
    known = (3, "hash")
    assert is_news(4, lambda: "", known, of_snapshot=False)
    assert not is_news(3, lambda: "other", known, of_snapshot=False)
    assert is_news(3, lambda: "other", known, of_snapshot=True)
    assert not is_news(3, lambda: "hash", known, of_snapshot=True)
    assert not is_news(2, lambda: "other", known, of_snapshot=True)
    assert is_news(1, lambda: "", None, of_snapshot=False)


def test_the_chain_is_the_protocols() -> None:
    link = link_of("crew", "a", 2, "update")
    assert link == "crew/a/2/update"
    assert chained("", link) != chained(chained("", link), link)


@given(st.lists(st.integers(1, 60)))
def test_ranges_are_a_set(numbers: list[int]) -> None:
    ranges = Ranges()
    for number in numbers:
        ranges.add(number)
    held = {number for low, high in ranges for number in range(low, high + 1)}
    assert held == set(numbers)
    pairs = list(ranges)
    assert pairs == sorted(pairs)
    assert all(b[0] > a[1] + 1 for a, b in pairwise(pairs))
    least = 0
    while least + 1 in held:
        least += 1
    assert ranges.follow(0) == least
