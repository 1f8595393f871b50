"""The days of the data budget, in the ship's zone, and how it is divided."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from arus.outbox.usage import DataBudget, Usage, in_units

HOUR = 3_600_000


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("zone", "now", "day", "hours"),
    [
        ("UTC", "2026-11-27T23:59:59", "2026-11-27", 24),
        ("Asia/Manila", "2026-11-27T23:59:59", "2026-11-28", 24),
        ("America/Los_Angeles", "2026-11-27T07:59:59", "2026-11-26", 24),
        ("Europe/Oslo", "2026-03-29T12:00:00", "2026-03-29", 23),
        ("Europe/Oslo", "2026-10-25T12:00:00", "2026-10-25", 25),
        # A zone that skips midnight itself, when summer time begins.
        ("America/Asuncion", "2023-10-01T12:00:00", "2023-10-01", 23),
        # The line was moved: this day never was.
        ("Pacific/Apia", "2011-12-31T09:00:00", "2011-12-30", 0),
    ],
)
def test_a_day_is_one_of_the_ships_zone(zone: str, now: str, day: str, hours: int) -> None:
    budget = DataBudget(1000, zone)
    moment = at(now)
    if hours:
        assert budget.day(moment) == day
        assert budget.end(moment) - budget.begin(moment) == hours * HOUR
    assert budget.begin(moment) <= moment < budget.end(moment)
    assert budget.day(budget.begin(moment)) == budget.day(moment)
    assert budget.day(budget.end(moment)) > budget.day(moment)


def test_without_a_zone_the_machines_is_used() -> None:
    budget = DataBudget()
    moment = at("2026-11-27T12:00:00")
    local = datetime.fromtimestamp(moment / 1000)  # noqa: DTZ006  # it is the machine's
    assert budget.day(moment) == local.date().isoformat()
    assert budget.begin(moment) <= moment < budget.end(moment)


def test_a_tenth_is_reserved_and_catchups_get_half_of_the_rest() -> None:
    budget = DataBudget(20_000_000)
    assert (budget.reserve, budget.ordinary, budget.catchups) == (2_000_000, 18_000_000, 9_000_000)


def test_what_is_left_is_never_below_zero() -> None:
    usage = Usage(DataBudget(100), "2026-11-27", 0, {"changes": 90, "statuses": 40})
    assert (usage.used, usage.left) == (130, 0)
    assert Usage(DataBudget(), "2026-11-27", 0, {"changes": 90}).left is None


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (12_345_678, "12.3 MB"),
        (20_000_000, "20 MB"),
        (1_999_999, "2 MB"),
        (999_999, "1 MB"),
        (5_400_000_000, "5.4 GB"),
        (1_234_000_000_000, "1234 GB"),
    ],
)
def test_bytes_are_shown_in_the_largest_fitting_unit(size: int, shown: str) -> None:
    assert in_units(size) == shown
