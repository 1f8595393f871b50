from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.forecast import (
    DAY,
    MINUTE,
    UNITS,
    Estimate,
    Sample,
    arrival_rate,
    in_units,
    link_rate,
    time_to_drain,
    time_to_full,
)

NOW = 1_795_334_400_000
HOUR = 60 * MINUTE


def at(minutes_ago: int, *, depth: int = 0, published: int = 0) -> Sample:
    return Sample(NOW - minutes_ago * MINUTE, depth, published)


def test_what_was_delivered_and_what_waits_has_come_in_the_day() -> None:
    samples = [at(600, published=860), at(30, depth=4)]
    rate = arrival_rate(samples, depth=4, observed_from=NOW - 30 * DAY, now=NOW)
    assert rate == pytest.approx(864 / 86_400)


def test_what_waited_before_the_day_began_did_not_come_in_it() -> None:
    samples = [at(24 * 60 + 5, depth=500), at(60, depth=932)]
    rate = arrival_rate(samples, depth=932, observed_from=NOW - 30 * DAY, now=NOW)
    assert rate == pytest.approx(432 / 86_400)


def test_of_a_young_log_only_its_own_time_counts() -> None:
    rate = arrival_rate([at(30, depth=60)], depth=60, observed_from=NOW - HOUR, now=NOW)
    assert rate == pytest.approx(60 / 3600)


def test_a_few_minutes_make_no_rate() -> None:
    assert arrival_rate([at(1, depth=60)], depth=60, observed_from=NOW - 5 * MINUTE, now=NOW) == 0


def test_a_queue_that_only_shrinks_has_no_arrivals() -> None:
    samples = [at(24 * 60 + 5, depth=500), at(60, depth=100)]
    assert arrival_rate(samples, depth=100, observed_from=0, now=NOW) == 0


def test_the_queue_is_full_in_six_days_and_four_hours() -> None:
    full = time_to_full(depth=1120, limit=10_000, rate=0.016667)
    assert full is not None
    assert in_units(full.seconds) == [(6, "d"), (4, "h")]


def test_a_full_queue_is_full_now() -> None:
    assert time_to_full(depth=10_000, limit=10_000, rate=0) == Estimate(0)


@pytest.mark.parametrize("rate", [0.0, 1e-9])
def test_without_a_rate_nobody_knows_when_the_queue_is_full(rate: float) -> None:
    assert time_to_full(depth=10, limit=10_000, rate=rate) is None


def test_a_backlog_takes_as_long_as_the_link_was_seen_to_need() -> None:
    samples = [at(9, depth=900, published=60), at(8, depth=300, published=600)]
    samples += [at(7, depth=40, published=600), at(6, published=40)]
    assert time_to_drain(depth=1800, samples=samples) == Estimate(180)


def test_a_link_that_was_never_at_its_limit_gives_a_bound() -> None:
    samples = [at(9, published=30), at(8, published=120)]
    assert link_rate(samples) == (2.0, False)
    assert time_to_drain(depth=600, samples=samples) == Estimate(300, at_most=True)


def test_the_link_of_long_ago_says_nothing_of_this_one() -> None:
    fast = [at(100 - n, depth=9, published=6000) for n in range(30)]
    slow = [at(60 - n, depth=9, published=6) for n in range(30)]
    assert link_rate([*fast, *slow]) == (0.1, True)


def test_of_a_link_that_carried_nothing_nothing_is_known() -> None:
    assert time_to_drain(depth=5, samples=[at(5, depth=5)]) is None
    assert time_to_drain(depth=5, samples=[]) is None


def test_no_backlog_takes_no_time() -> None:
    assert time_to_drain(depth=0, samples=[]) == Estimate(0)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, [(1, "s")]),
        (59.6, [(1, "min")]),
        (61, [(1, "min"), (1, "s")]),
        (180, [(3, "min")]),
        (3599.7, [(1, "h")]),
        (86_399, [(1, "d")]),
        (7 * 86_400 - 1, [(7, "d")]),
        (6 * 86_400 + 4 * 3600 + 1799, [(6, "d"), (4, "h")]),
    ],
)
def test_a_duration_is_told_in_its_two_largest_units(
    seconds: float, shown: list[tuple[int, str]]
) -> None:
    assert in_units(seconds) == shown


@given(st.floats(0, 10**9))
def test_a_shown_duration_is_right_to_half_of_its_smaller_unit(seconds: float) -> None:
    sizes = dict(UNITS)
    shown = in_units(seconds)
    assert 1 <= len(shown) <= 2
    said = sum(count * sizes[unit] for count, unit in shown)
    smaller = {"d": 3600, "h": 60, "min": 1, "s": 1}[shown[0][1]]
    assert abs(said - max(seconds, 0.5)) <= smaller


@given(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 10**6), st.integers(0, 10**6))),
    st.integers(0, 10**6),
    st.integers(0, 3 * DAY),
)
def test_no_history_makes_an_estimate_that_is_not_a_time(
    moments: list[tuple[int, int, int]], depth: int, age: int
) -> None:
    samples = [at(ago, depth=d, published=p) for ago, d, p in sorted(moments, reverse=True)]
    rate = arrival_rate(samples, depth=depth, observed_from=NOW - age, now=NOW)
    assert rate >= 0
    for estimate in (
        time_to_full(depth=depth, limit=10**6, rate=rate),
        time_to_drain(depth=depth, samples=samples),
    ):
        assert estimate is None or 0 <= estimate.seconds < float("inf")
