"""How long the owner rests between two turns while others write."""

from __future__ import annotations

import pytest

from arus.relay.throttle import FEW, LONGEST, SHORTEST, Throttle


def commits(
    throttle: Throttle, count: int, *, every: float, turn: float, now: float = 100.0
) -> tuple[float, float, float]:
    """Let others commit; return when it is over, the time spent in turns, and the longest rest."""
    end, spent, longest, seen = now + count * every, 0.0, 0.0, now
    while now < end:
        throttle.committed(round((now - seen) / every), now)
        seen = now
        throttle.wrote(now, now + turn)
        spent += turn
        now += turn
        longest = max(longest, throttle.rest_until - now)
        now = max(now + every, throttle.rest_until)
    return now, spent, longest


def test_the_first_change_of_an_idle_system_need_not_wait() -> None:
    throttle = Throttle()
    assert throttle.rest_until < 0
    assert throttle.most(100.0) is None


def test_nobody_rests_where_nobody_else_writes() -> None:
    throttle = Throttle()
    for turn in range(100):
        throttle.wrote(float(turn), turn + 0.9)
        assert throttle.rest_until == turn + 0.9
    assert throttle.most(100.0) is None, "a backlog drains at full speed"


@pytest.mark.parametrize("every", [0.02, 0.1, 1.0])
def test_a_trickle_goes_out_at_once_however_long_it_lasts(every: float) -> None:
    _, _, longest = commits(Throttle(), 1000, every=every, turn=0.0015)
    assert longest == 0


def test_a_short_burst_has_no_rests() -> None:
    throttle = Throttle()
    now = 100.0
    for _ in range(10):
        now, _, longest = commits(throttle, 20, every=0.002, turn=0.002, now=now)
        assert longest == 0
        now += 0.5


@pytest.mark.parametrize("turn", [0.002, 0.004, 0.01])
def test_a_flood_leaves_the_others_their_time(turn: float) -> None:
    throttle = Throttle()
    now, _, _ = commits(throttle, 1000, every=0.003, turn=turn)
    end, spent, longest = commits(throttle, 1000, every=0.003, turn=turn, now=now)
    assert spent / (end - now) <= turn / (turn + LONGEST) * 1.1
    assert longest == pytest.approx(LONGEST)
    assert throttle.most(end) == FEW


def test_requests_that_follow_each_other_have_the_machine_after_a_burst() -> None:
    throttle = Throttle()
    now, _, longest = commits(throttle, 20, every=0.002, turn=0.0005)
    assert longest == 0
    _, _, longest = commits(throttle, 100, every=0.002, turn=0.0005, now=now)
    assert longest > LONGEST / 2


def test_a_slow_machine_rests_sooner() -> None:
    _, _, fast = commits(Throttle(), 500, every=0.02, turn=0.001)
    _, _, slow = commits(Throttle(), 500, every=0.02, turn=0.01)
    assert fast == 0
    assert slow > LONGEST / 2


def test_a_disk_that_hesitates_once_is_no_reason_to_rest() -> None:
    throttle = Throttle()
    now, _, _ = commits(throttle, 100, every=0.05, turn=0.0015)
    throttle.wrote(now, now + 0.5)
    assert throttle.rest_until == now + 0.5


def test_after_a_flood_a_change_goes_out_at_once_again() -> None:
    throttle = Throttle()
    now, _, _ = commits(throttle, 1000, every=0.003, turn=0.003)
    throttle.committed(1, now + 3)
    throttle.wrote(now + 3, now + 3.003)
    assert throttle.rest_until == now + 3.003


def test_what_comes_just_after_a_look_shares_the_next() -> None:
    throttle = Throttle()
    assert throttle.look_from < 0
    throttle.looked(1.0)
    assert throttle.look_from == pytest.approx(1.0 + SHORTEST)
