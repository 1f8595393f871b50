"""What was forecast in a month at sea, against what then happened: median errors under a fifth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from statistics import median

import pytest

from arus.ops.forecast import (
    HOUR,
    Estimate,
    Load,
    budget_lasts,
    link_rate,
    load_of,
    time_to_drain,
    time_to_full,
)
from tests.support.voyage import BEGIN, Moment, Sea, Voyage

SEAS = {
    "long outages": Sea(3_000, rates=(0.5, 3.0), connected=10, outage=30),
    "slow links of many kinds": Sea(6_000, rates=(0.15, 0.4, 2.0), connected=12, outage=5),
    # A quarter of all changes.
    "many bursts": Sea(3_000, rates=(1.0, 3.0), bursts=2, burst=(100, 800)),
    "a budget that is spent each day": Sea(
        5_100, rates=(0.3, 2.0), connected=60, outage=2, bursts=0.3, budget=3_800_000
    ),
    "a budget that mostly lasts": Sea(
        4_000, rates=(0.5,), connected=40, outage=3, budget=4_000_000
    ),
}
#: The largest median error.
MOST = 0.2

#: Forecasts that are compared, of those that could be.
ENOUGH = 300


Forecast = Callable[[Voyage, Moment], Estimate | None]


@cache
def voyage(name: str) -> Voyage:
    return Voyage(SEAS[name], seed=1).sail()


def hour_of(moment: int) -> int:
    return moment // HOUR % 24


def load(one: Voyage, moment: Moment) -> Load | None:
    return load_of(
        one.known_hours(moment),
        depth=moment.depth,
        observed_from=BEGIN,
        now=moment.now,
        hour_of=hour_of,
    )


def full(one: Voyage, moment: Moment) -> Estimate | None:
    return time_to_full(
        depth=moment.depth,
        limit=one.sea.limit,
        load=load(one, moment),
        now=moment.now,
        hour_of=hour_of,
    )


def drain(one: Voyage, moment: Moment) -> Estimate | None:
    return time_to_drain(
        depth=moment.depth,
        samples=one.known(moment),
        now=moment.now,
        connected_since=moment.connected_since,
        allowance=one.allowance(moment),
    )


def budget(one: Voyage, moment: Moment) -> Estimate | None:
    allowance = one.allowance(moment)
    assert allowance is not None
    rate = link_rate(one.known(moment), now=moment.now, connected_since=moment.connected_since)
    return budget_lasts(
        depth=moment.depth,
        load=load(one, moment),
        link=rate[0] if rate and rate[1] else None,
        allowance=allowance,
        now=moment.now,
        hour_of=hour_of,
    )


@dataclass
class Compared:
    """Forecasts, compared with what then happened."""

    #: Relative errors.
    errors: list[float] = field(default_factory=list)
    #: Of those that are said to be an upper bound only: whether it was one.
    bounds: list[bool] = field(default_factory=list)
    unknown: int = 0

    def __str__(self) -> str:
        middle = f"{median(self.errors):.3f}" if self.errors else "-"
        return (
            f"{len(self.errors)} forecasts with a median error of {middle}, {len(self.bounds)} bounds of which"
            f" {sum(self.bounds)} held, {self.unknown} not made"
        )


def compare(one: Voyage, forecast: Forecast) -> Compared:
    """Make forecasts all over the voyage, wherever it is known what then happened."""
    truths: dict[Forecast, tuple[Callable[[Moment], float | None], int]] = {
        full: (one.full_in, 3600),
        drain: (one.drained_in, 60),
        budget: (one.spent_in, 1800),
    }
    truth, least = truths[forecast]
    known = [
        (moment, happened) for moment in one.moments if (happened := truth(moment)) is not None
    ]
    # Of what is over sooner, nobody needs a forecast.
    known = [(moment, happened) for moment, happened in known if happened >= least]
    compared = Compared()
    for moment, happened in known[:: max(1, len(known) // ENOUGH)]:
        estimate = forecast(one, moment)
        if estimate is None:
            compared.unknown += 1
        elif estimate.at_most:
            compared.bounds.append(happened <= estimate.seconds * 1.2)
        else:
            compared.errors.append(abs(estimate.seconds - happened) / happened)
    return compared


CASES = [
    (name, forecast)
    for name, sea in SEAS.items()
    for forecast in (full, drain, budget)
    if forecast is not budget or sea.budget is not None
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "forecast"), CASES)
def test_half_of_the_forecasts_are_right_to_a_fifth(name: str, forecast: Forecast) -> None:
    compared = compare(voyage(name), forecast)
    print(f"{name}: {forecast.__name__}: {compared}")
    assert len(compared.errors) >= 20
    assert median(compared.errors) < MOST
    assert compared.unknown <= len(compared.errors) / 4, "one that is never made is no forecast"
    assert sum(compared.bounds) >= len(compared.bounds) * 0.9
