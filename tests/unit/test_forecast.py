from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.ops.forecast import (
    DAY,
    HOUR,
    MINUTE,
    UNITS,
    Allowance,
    Estimate,
    Load,
    Sample,
    Totals,
    budget_lasts,
    bytes_per_change,
    in_units,
    link_rate,
    load_of,
    time_to_drain,
    time_to_full,
)

#: At the beginning of an hour: 09:00 UTC.
NOW = 1_795_338_000_000
EVEN = Load([10.0] * 24)


def hour_of(moment: int) -> int:
    return moment // HOUR % 24


def at(minutes_ago: int, *, depth: int = 0, published: int = 0) -> Sample:
    return Sample(NOW - minutes_ago * MINUTE, depth, published)


def hour(ago: int, *, depth: int = 0, published: int = 0, sent: int = 0) -> Totals:
    return Totals(NOW - ago * HOUR, depth, published, sent)


def load(*hours: Totals, depth: int = 0, age: int = 30 * DAY) -> Load | None:
    return load_of(hours, depth=depth, observed_from=NOW - age, now=NOW, hour_of=hour_of)


def test_what_was_delivered_and_what_waits_was_made() -> None:
    found = load(hour(10, published=860), hour(1, depth=4), depth=4)
    assert found is not None
    assert found.per_day == pytest.approx(864 / 14)


def test_what_waited_before_the_first_hour_was_not_made_in_it() -> None:
    found = load(hour(14 * 24 + 1, depth=500), hour(1, depth=932), depth=932)
    assert found is not None
    assert found.per_day == pytest.approx(432 / 14)


def test_the_load_is_that_of_each_hour_of_the_day() -> None:
    days = [hour(24 * day + 2, published=70) for day in range(13, -1, -1)]
    found = load(*days)
    assert found is not None
    assert found.by_hour == [70 if h == hour_of(NOW - 2 * HOUR) else 0 for h in range(24)]


def test_an_hour_that_was_not_observed_counts_as_the_average() -> None:
    found = load(*(hour(ago, published=ago) for ago in range(12, 0, -1)), age=12 * HOUR)
    assert found is not None
    now = hour_of(NOW)
    assert [found.by_hour[(now - ago) % 24] for ago in range(1, 13)] == list(range(1, 13))
    assert [found.by_hour[(now + ago) % 24] for ago in range(12)] == [6.5] * 12


def test_a_few_hours_make_no_rate_as_they_say_nothing_of_the_others() -> None:
    assert load(hour(1, depth=60), depth=60, age=12 * HOUR - 1) is None


def test_a_queue_that_only_shrinks_has_no_load() -> None:
    found = load(hour(14 * 24 + 1, depth=500), hour(1, depth=100), depth=100)
    assert found is not None
    assert found.per_day == 0


def test_the_queue_is_full_in_six_days_and_four_hours() -> None:
    full = time_to_full(depth=8520, limit=10_000, load=EVEN, now=NOW, hour_of=hour_of)
    assert full is not None
    assert in_units(full.seconds) == [(6, "d"), (4, "h")]


def test_a_queue_fills_as_the_hours_of_the_day_bring_it() -> None:
    by_day = Load([0.0] * 12 + [100.0] * 12)
    full = time_to_full(depth=0, limit=50, load=by_day, now=NOW, hour_of=hour_of)
    assert full == Estimate(3.5 * 3600)
    assert time_to_full(
        depth=0, limit=50, load=by_day, now=NOW, hour_of=hour_of, merges=True
    ) == Estimate(3.5 * 3600, at_least=True)


def test_a_full_queue_is_full_now() -> None:
    full = time_to_full(depth=10_000, limit=10_000, load=None, now=NOW, hour_of=hour_of)
    assert full == Estimate(0)


@pytest.mark.parametrize("found", [None, Load([0.0] * 24), Load([1e-9] * 24)])
def test_without_a_load_nobody_knows_when_the_queue_is_full(found: Load | None) -> None:
    assert time_to_full(depth=10, limit=10_000, load=found, now=NOW, hour_of=hour_of) is None


def test_a_backlog_takes_as_long_as_the_link_was_seen_to_need() -> None:
    samples = [at(9, depth=900, published=60), at(8, depth=300, published=600)]
    samples += [at(7, depth=60, published=600), at(6, published=60)]
    assert time_to_drain(depth=1800, samples=samples, now=NOW) == Estimate(180)


def test_a_link_that_was_never_at_its_limit_gives_a_bound() -> None:
    samples = [at(9, published=30), at(8, published=120)]
    assert link_rate(samples, now=NOW) == (2.0, False)
    assert time_to_drain(depth=600, samples=samples, now=NOW) == Estimate(300, at_most=True)


def test_a_change_or_two_in_flight_do_not_show_the_limit() -> None:
    samples = [at(9 - n, depth=1, published=4) for n in range(5)]
    assert link_rate(samples, now=NOW) == (4 / 60, False)


def test_the_link_of_an_earlier_connection_says_nothing_of_this_one() -> None:
    fast = [at(100 - n, depth=900, published=6000) for n in range(30)]
    slow = [at(60 - n, depth=900, published=6) for n in range(30)]
    assert link_rate([*fast, *slow], now=NOW, connected_since=NOW - 62 * MINUTE) == (0.1, True)
    assert link_rate([*fast, at(60, depth=900)], now=NOW, connected_since=NOW - HOUR) == (100, True)
    assert link_rate([*fast, *slow[:2]], now=NOW, connected_since=NOW) is None, "they differ"


def test_the_minute_that_has_not_ended_counts_by_what_has_passed_of_it() -> None:
    samples = [at(1, depth=900), at(0, depth=800, published=100)]
    now = NOW + 20_000
    assert link_rate(samples, now=now, connected_since=NOW - DAY) == (5, True)
    assert link_rate(samples, now=now, connected_since=NOW + 3_000) == (100 / 17, True)


def test_of_a_link_that_carried_nothing_nothing_is_known() -> None:
    assert time_to_drain(depth=5, samples=[at(5, depth=5)], now=NOW) is None
    assert time_to_drain(depth=5, samples=[], now=NOW) is None


def test_no_backlog_takes_no_time() -> None:
    assert time_to_drain(depth=0, samples=[], now=NOW) == Estimate(0)


def test_what_the_data_budget_holds_back_is_sent_on_later_days() -> None:
    samples = [at(9, depth=900, published=60), at(8, depth=900, published=60)]
    allowance = Allowance(left=0, per_day=100_000, ends_at=NOW + 6 * HOUR, per_change=1000)
    wait = 6 * 3600
    for depth, seconds in (
        (100, wait + 100),
        (101, wait + 86_400 + 1),
        (250, wait + 2 * 86_400 + 50),
    ):
        found = time_to_drain(depth=depth, samples=samples, now=NOW, allowance=allowance)
        assert found == Estimate(seconds)


def test_the_budget_lasts_until_the_load_has_used_it() -> None:
    assert bytes_per_change([hour(3, sent=2000, published=4), hour(2, sent=100)]) == 525
    assert bytes_per_change([hour(3, sent=2000)]) is None

    def lasts(depth: int, link: float | None, left: float = 100_000) -> Estimate | None:
        allowance = Allowance(left, 200_000, NOW + 15 * HOUR, 1000)
        return budget_lasts(
            depth=depth, load=EVEN, link=link, allowance=allowance, now=NOW, hour_of=hour_of
        )

    assert lasts(0, None) == Estimate(10 * 3600)
    assert lasts(40, 1.0) == Estimate(6 * 3600)
    assert lasts(0, None, left=160_000) == Estimate(15 * 3600), "until midnight"
    assert lasts(500, 0.1) == Estimate(1000), "as fast as the link carries it"
    assert lasts(500, None, left=0) == Estimate(0)


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
    st.integers(0, 20 * DAY),
    st.integers(0, 10**6),
)
def test_no_history_makes_an_estimate_that_is_not_a_time(
    moments: list[tuple[int, int, int]], depth: int, age: int, left: int
) -> None:
    samples = [at(ago, depth=d, published=p) for ago, d, p in sorted(moments, reverse=True)]
    hours = [hour(ago, depth=d, published=p, sent=p) for ago, d, p in sorted(moments, reverse=True)]
    found = load(*hours, depth=depth, age=age)
    allowance = Allowance(left, 10**5, NOW + HOUR, 100)
    for estimate in (
        time_to_full(depth=depth, limit=10**6, load=found, now=NOW, hour_of=hour_of),
        time_to_drain(depth=depth, samples=samples, now=NOW),
        time_to_drain(depth=depth, samples=samples, now=NOW, allowance=allowance),
        budget_lasts(
            depth=depth, load=found, link=1.0, allowance=allowance, now=NOW, hour_of=hour_of
        ),
    ):
        assert estimate is None or 0 <= estimate.seconds < float("inf")
