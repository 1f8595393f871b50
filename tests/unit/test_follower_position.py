"""The receiver's algorithm, case by case."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.follower.position import Need, Position, Request
from arus.follower.ranges import Ranges
from arus.follower.requests import Patience, ask
from arus.follower.row_changes import is_news
from arus.follower.runs import Run
from arus.follower.vessels import VesselState
from arus.protocol.catchups import chained, link_of
from arus.protocol.encoding import encode
from arus.protocol.messages import CatchupBegin, CatchupEnd, Heads, Progress, Status

PATIENCE = Patience()


def begin(request_id: str | None = "r1", mode: str = "log", **changes: object) -> CatchupBegin:
    fields: dict[str, object] = {
        "vessel_id": "ship", "epoch": "e", "entity": "crew", "catchup_id": "c1",
        "request_id": request_id, "mode": mode, "high_seq": 10, "total": 1, "since_seq": 0,
        "complete": mode == "snapshot", "buckets": None,
    }  # fmt: skip
    return CatchupBegin(**{**fields, **changes})  # type: ignore[arg-type]


def end(request_id: str | None = "r1", mode: str = "log", **changes: object) -> CatchupEnd:
    fields: dict[str, object] = {
        "vessel_id": "ship", "epoch": "e", "entity": "crew", "catchup_id": "c1",
        "request_id": request_id, "mode": mode, "high_seq": 10, "total": 1,
        "digest": chained("", "i0"), "next": None,
    }  # fmt: skip
    return CatchupEnd(**{**fields, **changes})  # type: ignore[arg-type]


def began(position: Position, message: CatchupBegin, now: int = 0) -> Run:
    run = position.begin(message, now)
    assert run is not None
    return run


def vessel(**needs: Need) -> VesselState:
    state = VesselState("ship", "e")
    for topic, need in needs.items():
        state.positions[topic] = Position(topic, topic, need=need)
    return state


def requests(state: VesselState, now: int = 0, *ids: str) -> list[dict[str, object]]:
    names = iter(ids or ("r1", "r2", "r3"))
    asked = ask(state, now, PATIENCE, lambda: next(names))
    return [orjson.loads(encode(request)) for request in asked]


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
    assert not began(position, begin(since_seq=4)).useful
    assert not began(position, begin(since_seq=None)).useful
    assert began(position, begin(since_seq=3)).useful


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
    assert began(position, begin("r0")).useful


def test_a_snapshot_of_other_buckets_than_those_asked_for_proves_nothing() -> None:
    state = vessel(crew=Need.ROWS)
    position = state.positions["crew"]
    position.buckets = (1, 2)
    requests(state)
    for buckets in ((1, 2, 3), (1,), None):
        assert not began(position, begin(mode="snapshot", buckets=buckets)).useful
    assert began(position, begin(mode="snapshot", buckets=(2, 1))).useful


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
    state.begun(answer, 0, "shore")
    assert (position.seq, position.beyond, position.wants) == (7, [], Need.CHANGES)
    assert state.head == 30
    assert not state.disproves(answer), "once is enough"


def test_gaps_of_all_topics_are_requested_topic_by_topic() -> None:
    state = vessel(crew=Need.NOTHING, alerts=Need.NOTHING)
    for position in state.positions.values():
        position.applied(30, 90)
    assert [(one["sinceSeq"], one["limit"]) for one in requests(state)] == [(0, 30), (0, 30)]


def test_an_answer_since_the_watermark_serves_a_topic_without_changes() -> None:
    state = vessel(crew=Need.CHANGES, alerts=Need.NOTHING)
    state.seq = 8  # each number up to 8 was a change of `alerts`
    (request,) = requests(state)
    assert request["sinceSeq"] == 8
    assert began(state.positions["crew"], begin(since_seq=8)).useful


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
    assert not began(position, begin()).useful
    assert not began(position, begin(mode="snapshot", complete=False)).useful
    run = began(position, begin(mode="snapshot"))
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


def log_run(*, since_seq: int = 4, need: Need = Need.CHANGES) -> tuple[VesselState, Position, str]:
    """A vessel that has sent the items numbered 5 and 7 of a log up to 10, and the digest over them."""
    state = vessel(crew=need)
    position = state.positions["crew"]
    position.seq = since_seq
    requests(state, 0, "r1")
    state.begun(begin(since_seq=since_seq, total=3, consumer="shore"), 0, "shore")
    digest = ""
    for sequence, seq in enumerate((5, 7)):
        run = position.item("c1", sequence, f"i{sequence}", 0)
        assert run is not None
        state.received(position, run)
        position.advance(run, sequence, seq)
        digest = chained(digest, f"i{sequence}")
    return state, position, digest


def test_the_position_follows_the_items_of_a_log() -> None:
    state, position, _ = log_run()
    assert (position.seq, position.proven) == (7, 0)
    assert state.progress == Progress(catchup_id="c1", entity="crew", received=2)
    state.session_lost()
    assert [request["sinceSeq"] for request in requests(state, 1, "r2")] == [7]


def test_a_log_from_the_beginning_is_continued_too() -> None:
    state, _position, _ = log_run(since_seq=0, need=Need.EVERYTHING)
    state.session_lost()
    assert [request["sinceSeq"] for request in requests(state, 1, "r2")] == [7]


def test_behind_a_missing_item_the_position_stays_but_the_items_are_reported() -> None:
    state, position, _ = log_run()
    run = position.item("c1", 5, "i5", 0)
    assert run is not None
    state.received(position, run)
    position.advance(run, 5, 10)
    assert position.seq == 7
    assert state.progress == Progress(catchup_id="c1", entity="crew", received=6)


def test_an_end_that_contradicts_the_items_takes_the_position_back() -> None:
    state, position, _ = log_run()
    state.settle()
    assert state.seq == 7
    assert state.ended(end(total=2, digest="0" * 64), 0) is None
    assert (position.seq, state.seq, position.wants) == (4, 4, Need.CHANGES)


def test_an_end_whose_last_items_are_missing_leaves_the_position() -> None:
    state, position, _ = log_run()
    assert state.ended(end(total=3, digest="0" * 64), 0) is None
    assert (position.seq, position.wants) == (7, Need.CHANGES)


def test_the_end_of_a_log_proves_it() -> None:
    state, position, digest = log_run()
    assert state.ended(end(total=2, digest=digest), 0) is not None
    assert (position.seq, position.proven, position.wants) == (10, 10, Need.NOTHING)


def test_items_of_a_snapshot_move_no_position() -> None:
    state = vessel(crew=Need.SNAPSHOT)
    position = state.positions["crew"]
    requests(state, 0, "r1")
    state.begun(begin(mode="snapshot", since_seq=None, total=2), 0, "shore")
    run = position.item("c1", 0, "i0", 0)
    assert run is not None
    state.received(position, run)
    position.advance(run, 0, 10)
    assert position.seq == 0
    assert state.progress is None, "nobody waits for a report"


def status(**changes: object) -> Status:
    fields: dict[str, object] = {
        "status": "online", "vessel_id": "ship", "epoch": "e", "seq": 3, "pending": 3,
        "topics": {"crew": 2, "alerts": 3}, "complete": True,
    }  # fmt: skip
    return Status(**{**fields, **changes})  # type: ignore[arg-type]


def joining(told: Status, *changes: tuple[str, int, int], retained: bool = False) -> VesselState:
    """A new vessel after its status and live changes: topic, previousSeq and seq."""
    state = vessel(crew=Need.EVERYTHING, alerts=Need.EVERYTHING, parts=Need.EVERYTHING)
    state.reported(told, 0, retained=retained)
    for topic, previous_seq, seq in changes:
        position = state.positions[topic]
        position.applied(previous_seq, seq, state.seq)
        state.counted(seq)
        if position.need is Need.EVERYTHING:
            state.join()
    state.settle()
    return state


def test_a_vessel_that_is_received_from_its_first_change_on_is_not_asked() -> None:
    # Alerts overtake: topics arrive in any order.
    state = joining(status(), ("alerts", 0, 3), ("crew", 0, 1), ("crew", 1, 2))
    assert requests(state) == []
    assert (state.seq, state.caught_up) == (3, True)


def test_a_vessel_that_is_sending_its_first_changes_is_not_asked_before_they_end() -> None:
    state = joining(status(), ("crew", 0, 1))
    state.heard_at = 1_000
    patience = int(PATIENCE.progress * 1000)
    assert requests(state, 1_000 + patience - 1) == []
    assert [one["entity"] for one in requests(state, 1_000 + patience)] == ["alerts"]


def test_a_vessel_that_has_left_before_its_first_change_is_not_asked_before_it_is_back() -> None:
    gone = status(status="offline", seq=0, pending=0, topics={}, complete=None)
    state = joining(gone)
    assert requests(state) == []
    state.reported(status(), 0)
    assert requests(state) == [], "it sends its first changes"
    state.reported(status(pending=0), 0)
    assert [one["entity"] for one in requests(state)] == ["all"]


def test_a_vessel_that_has_left_after_its_first_change_is_asked_at_once() -> None:
    gone = status(status="offline", pending=0, complete=None)
    state = joining(gone)
    state.head = 3
    assert [one["entity"] for one in requests(state)] == ["all"]


@pytest.mark.parametrize(
    "told",
    [status(complete=False), status(complete=None), status(pending=0), status(topics=None)],
    ids=["not complete", "not told", "nothing pending", "no heads"],
)
def test_a_vessel_that_does_not_send_all_it_has_is_asked_at_once(told: Status) -> None:
    assert [one["entity"] for one in requests(joining(told))] == ["all"]


def test_a_vessel_of_which_only_a_retained_status_is_known_is_asked_at_once() -> None:
    state = joining(status(), ("crew", 0, 1), retained=True)
    assert [one["entity"] for one in requests(state)] == ["all"]


def test_a_first_change_in_an_epoch_that_began_with_earlier_rows_does_not_stand_for_them() -> None:
    # After a restore the numbers go on, and each topic begins again with previousSeq 0.
    state = joining(status(seq=57, topics={"crew": 57}, pending=0), ("crew", 0, 57))
    assert [one["entity"] for one in requests(state)] == ["all"]


def test_a_gap_before_the_first_change_is_asked_for_at_once() -> None:
    state = joining(status(), ("crew", 1, 2), ("alerts", 0, 3))
    assert [one["entity"] for one in requests(state)] == ["crew"]


def paused(until: str | None) -> Status:
    return status() if until is None else status(paused_until=until)


def test_while_the_data_budget_makes_catchups_wait_a_request_is_not_repeated() -> None:
    minute, day = 60_000, 86_400_000
    now = day  # the second day of 1970
    state = vessel(crew=Need.SNAPSHOT)
    assert len(requests(state, now)) == 1
    began(state.positions["crew"], begin(mode="snapshot", since_seq=None), now)
    state.reported(paused("1970-01-03T00:00:00.000Z"), now)
    assert requests(state, now + 23 * 3_600_000) == []
    # It goes on after midnight: patience begins there.
    state.reported(paused(None), 2 * day + 1000)
    assert requests(state, 2 * day + minute - 1) == []
    assert len(requests(state, 2 * day + minute + 1000, "r2")) == 1


def test_a_request_without_an_answer_is_not_repeated_meanwhile_either() -> None:
    hour = 3_600_000
    state = vessel(crew=Need.SNAPSHOT)
    state.reported(paused("1970-01-01T10:00:00Z"), 0)
    assert len(requests(state, hour)) == 1, "the vessel keeps it"
    assert requests(state, 9 * hour) == []
    assert len(requests(state, 11 * hour, "r2")) == 1


@pytest.mark.parametrize("until", ["9999-12-31T00:00:00Z", "tomorrow", "", "1969-01-01T00:00:00Z"])
def test_no_vessel_makes_itself_wait_for_ever(until: str) -> None:
    state = vessel(crew=Need.SNAPSHOT)
    requests(state)
    state.reported(paused(until), 0)
    assert len(requests(state, 27 * 3_600_000, "r2")) == 1
