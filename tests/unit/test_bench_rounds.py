"""How many rounds the benchmarks run, and how long all of them may take."""

from __future__ import annotations

from collections.abc import Callable

from bench.__main__ import BENCHMARKS, BUDGET
from bench.rounds import limit, rounds_within


def ticking(*seconds: float) -> Callable[[], float]:
    """Return a clock whose rounds take so long: it is read when rounds begin and end."""
    times = [0.0, 0.0]
    for each in seconds:
        times.append(times[-1] + each)
    return iter(times).__next__


def test_all_benchmarks_together_may_take_twenty_minutes() -> None:
    assert sum(BENCHMARKS.values()) <= BUDGET == 1200


def test_no_round_begins_that_would_end_too_late() -> None:
    assert list(rounds_within(10, 9, clock=ticking(4, 3, 1, 1))) == [0, 1]
    assert list(rounds_within(12, 9, clock=ticking(4, 3, 1, 1))) == [0, 1, 2, 3]


def test_the_least_number_of_rounds_is_run_however_long_they_take() -> None:
    assert list(rounds_within(10, 9, 3, clock=ticking(20, 20, 20))) == [0, 1, 2]
    assert list(rounds_within(10, 2, 3, clock=ticking(20, 20))) == [0, 1]


def test_rounds_end_once_there_are_enough() -> None:
    assert list(rounds_within(99, 9, 3, is_enough=lambda: True, clock=ticking(1, 1, 1))) == [
        0,
        1,
        2,
    ]


def test_more_rounds_than_usual_have_all_the_time_they_need() -> None:
    usual, more = (limit(10, rounds, 3) for rounds in (3, 4))
    assert list(rounds_within(usual, 4, clock=ticking(9, 9, 9))) == [0, 1]
    assert list(rounds_within(more, 4, clock=ticking(9, 9, 9, 9))) == [0, 1, 2, 3]
