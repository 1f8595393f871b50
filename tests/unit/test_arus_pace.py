"""How often the owner writes while others do."""

from __future__ import annotations

import pytest

from arus.pace import ALLOWANCE, FEW, LONGEST, SHARE, SHORTEST, Pace

TURN = 0.002


def busy(pace: Pace, *, turns: int, turn: float = TURN, now: float = 100.0) -> tuple[float, float]:
    """Let the bell ring all the time; the time when all turns are done, and that spent in them."""
    spent = 0.0
    for _ in range(turns):
        now = max(now, pace.rest_until)
        pace.rang(now)
        pace.wrote(now, now + turn)
        now += turn
        spent += turn
    return now, spent


def test_the_first_change_of_an_idle_system_need_not_wait() -> None:
    assert Pace().rest_until < 0


def test_nobody_rests_where_nobody_else_writes() -> None:
    pace = Pace()
    pace.rang(1.0)
    pace.wrote(50.0, 51.0)
    assert pace.rest_until < 50


def test_a_short_burst_has_no_rests() -> None:
    pace = Pace()
    now, spent = busy(pace, turns=20)
    assert spent < ALLOWANCE
    assert pace.rest_until <= now


def test_what_comes_just_after_a_look_shares_the_next() -> None:
    pace = Pace()
    assert pace.look_from < 0
    pace.looked(1.0)
    assert pace.look_from == pytest.approx(1.0 + SHORTEST)


@pytest.mark.parametrize("turn", [0.001, 0.004, 0.02])
def test_a_long_burst_leaves_the_others_their_time(turn: float) -> None:
    pace = Pace()
    now, _ = busy(pace, turns=200, turn=turn)
    end, spent = busy(pace, turns=200, turn=turn, now=now)
    share = spent / (end - now)
    assert share <= max(SHARE, turn / (turn + LONGEST)) * 1.01


def test_a_turn_is_short_where_others_have_been_writing_for_long() -> None:
    pace = Pace()
    assert pace.most(100.0) is None
    now, _ = busy(pace, turns=5)
    assert pace.most(now) is None, "a short burst may go out at once"
    now, _ = busy(pace, turns=200, now=now)
    assert pace.most(pace.rest_until) == FEW
    assert pace.most(now + 1) is None, "the others have stopped"


def test_no_rest_is_longer_than_it_may_be() -> None:
    pace = Pace()
    now, _ = busy(pace, turns=50, turn=3.0)
    assert pace.rest_until - now <= LONGEST


def test_a_pause_earns_the_next_burst_its_haste() -> None:
    pace = Pace()
    now, _ = busy(pace, turns=200)
    assert pace.rest_until > now
    now, _ = busy(pace, turns=20, now=pace.rest_until + 0.2)
    assert pace.rest_until <= now
