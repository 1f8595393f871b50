"""Forecasts: when the queue will be full, how long the link needs to deliver it, and how long the data budget lasts.

They are computed only from what was observed: the hours of two weeks, which show how the load varies over the day,
and the minutes of the present connection, which show what the link carries. With too little of it the answer is
`None`: a made-up estimate is worse than none. `tests/unit/test_voyage.py` compares the forecasts of a simulated month
with what then happened.

Times are milliseconds since the epoch, durations seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

MINUTE = 60_000
HOUR = 3_600_000
DAY = 86_400_000
#: Milliseconds that must have been observed before the load is computed: a night says nothing of the day.
ENOUGH = 12 * HOUR
#: Days of which the hours are averaged.
DAYS = 14
#: Only so many of the latest samples describe the link.
RECENT = 10
#: How far the rates of earlier connections may differ, at most, to say something about a connection without a sample.
ALIKE = 1.5
#: Seconds beyond which an estimate is useless.
FAR = 365 * 86_400

#: Seconds in each unit, the largest first.
UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


class Sample(Struct, frozen=True):
    """A minute in which something was delivered or the depth changed."""

    #: Its start, in milliseconds since the epoch.
    minute: int
    #: Undelivered changes at its end.
    depth: int
    #: Changes acknowledged in it.
    published: int
    #: Bytes sent since the sample before it.
    sent: int = 0


class Totals(Struct, frozen=True):
    """The samples of an hour together."""

    #: Its start, in milliseconds since the epoch.
    begin: int
    #: As in a sample.
    depth: int
    published: int
    sent: int


class Estimate(Struct, frozen=True):
    """An estimated duration, and whether it is only a bound."""

    seconds: float
    #: It may be much shorter, as the link was never seen at its limit.
    at_most: bool = False
    #: It may be much longer, as changes of the same row replace each other.
    at_least: bool = False


# -- how many changes are made ------------------------------------------------------------------------


class Load(Struct, frozen=True):
    """The changes that are made in an hour, by the hour of the day in the ship's zone."""

    by_hour: Sequence[float]

    @property
    def per_day(self) -> float:
        """Changes a day."""
        return sum(self.by_hour)

    def until(self, count: float, now: int, hour_of: Callable[[int], int]) -> float | None:
        """Return the seconds until `count` more changes are made; None if that is never, or more than a year away.

        :param hour_of: returns the hour of the day of a moment.
        """
        if count <= 0:
            return 0.0
        if self.per_day <= 0 or count / self.per_day * 86_400 > FAR:
            return None
        days = max(0, math.floor(count / self.per_day) - 1)
        left = count - days * self.per_day
        at = float(now)
        while True:
            end = (at // HOUR + 1) * HOUR
            made = self.by_hour[hour_of(int(at))] * (end - at) / HOUR
            if made >= left:
                at += left / made * (end - at)
                return days * 86_400 + (at - now) / 1000
            left -= made
            at = end

    def between(self, begin: float, end: float, hour_of: Callable[[int], int]) -> float:
        """Return how many changes are made between two moments."""
        made = 0.0
        while begin < end:
            stop = min((begin // HOUR + 1) * HOUR, end)
            made += self.by_hour[hour_of(int(begin))] * (stop - begin) / HOUR
            begin = stop
        return made


def load_of(
    hours: Sequence[Totals],
    *,
    depth: int,
    observed_from: int,
    now: int,
    hour_of: Callable[[int], int],
) -> Load | None:
    """Return how many changes are made, from the hours of the last `DAYS` days.

    An hour of the day that was not observed yet counts as the average of the others.

    :param hours: in order; the first may be from before that time, and then shows the depth at its beginning.
    :param depth: undelivered changes now.
    :param observed_from: since when samples are taken.
    :returns: None if the observed time is too short.
    """
    begin = max(observed_from, now - DAYS * DAY)
    if now - begin < ENOUGH:
        return None
    made = _made(hours, depth=depth, begin=begin, now=now)
    sums, spans = [0.0] * 24, [0.0] * 24
    at = begin
    while at < now:
        end = min((at // HOUR + 1) * HOUR, now)
        hour = hour_of(at)
        sums[hour] += made.get(at // HOUR * HOUR, 0)
        spans[hour] += (end - at) / HOUR
        at = end
    average = sum(sums) / sum(spans)
    # Of a short piece of an hour nothing can be said of the whole hour.
    return Load([sums[h] / spans[h] if spans[h] >= 0.5 else average for h in range(24)])


def _made(hours: Sequence[Totals], *, depth: int, begin: int, now: int) -> Mapping[int, int]:
    """Return the changes made in each hour: those that were delivered, and those by which the queue grew."""
    made: dict[int, int] = {}
    before = 0
    for hour in hours:
        if hour.begin + HOUR > begin:
            grown = hour.published + hour.depth - before
            made[hour.begin] = max(0, grown)
        before = hour.depth
    current = now // HOUR * HOUR
    made[current] = max(0, made.get(current, 0) + depth - before)
    return made


def time_to_full(
    *,
    depth: int,
    limit: int,
    load: Load | None,
    now: int,
    hour_of: Callable[[int], int],
    merges: bool = False,
) -> Estimate | None:
    """Return the time until `limit` changes wait if none is delivered meanwhile.

    :param merges: changes of the same row replace each other as they wait (`MQTT_SUPERSEDE=always`).
    :returns: None if that is not known, or more than a year away.
    """
    if depth >= limit:
        return Estimate(0.0)
    if load is None:
        return None
    seconds = load.until(limit - depth, now, hour_of)
    return None if seconds is None else Estimate(seconds, at_least=merges)


# -- what the link carries ----------------------------------------------------------------------------


def link_rate(
    samples: Sequence[Sample], *, now: int, connected_since: int | None = None
) -> tuple[float, bool] | None:
    """Return the link's rate in changes a second, and whether the link was seen at its limit.

    Only a minute that began and ended with changes still waiting shows the limit; any other shows the demand. The
    minutes of the present connection count, since the last one may have used another satellite. As long as it has
    none, earlier ones do if they are alike.

    :param samples: in order.
    :param connected_since: when the connection was made; None without one.
    """
    moving = [sample.published for sample in samples if sample.published]
    if not moving:
        return None
    limits = _limits(samples, now=now, connected_since=connected_since or now)
    present = [rate for minute, rate in limits if minute + MINUTE > (connected_since or now)]
    if present:
        return _median(present[-RECENT:]), True
    earlier = [rate for _, rate in limits[-RECENT:]]
    if not earlier:
        return max(moving[-RECENT:]) / 60, False
    if max(earlier) > ALIKE * min(earlier):
        return None
    return _median(earlier), True


def _median(rates: list[float]) -> float:
    # Not by `statistics`, which loads exact fractions at each start.
    ordered = sorted(rates)
    half = len(ordered) // 2
    return (ordered[half] + ordered[~half]) / 2


def _limits(
    samples: Sequence[Sample], *, now: int, connected_since: int
) -> list[tuple[int, float]]:
    """Return the minutes in which the link was at its limit, and their rates."""
    found = []
    before = 0
    for sample in samples:
        start, end = sample.minute, min(sample.minute + MINUTE, now)
        if start < connected_since < end:
            start = connected_since  # before it, nothing was carried
        waiting = min(before, sample.depth)
        if (
            sample.published
            and waiting >= max(2, sample.published / 10)
            and end - start >= MINUTE / 4
        ):
            found.append((sample.minute, sample.published * 1000 / (end - start)))
        before = sample.depth
    return found


class Allowance(Struct, frozen=True):
    """What the data budget leaves."""

    #: Bytes that changes may have today, and on each further day.
    left: float
    per_day: float
    #: When the day ends.
    ends_at: int
    #: Bytes that a change takes, with all that is sent besides.
    per_change: float


def time_to_drain(
    *,
    depth: int,
    samples: Sequence[Sample],
    now: int,
    connected_since: int | None = None,
    allowance: Allowance | None = None,
) -> Estimate | None:
    """Return how long this link needs for `depth` changes; None if its rate is not known.

    :param allowance: what the data budget leaves, which may hold some of them back until a later day.
    """
    if not depth:
        return Estimate(0.0)
    rate = link_rate(samples, now=now, connected_since=connected_since)
    if rate is None:
        return None
    carried, limited = rate
    seconds = depth / carried
    if allowance is not None:
        found = _drain_by_days(depth, carried, allowance, now)
        return None if found is None else Estimate(found, at_most=not limited and found == seconds)
    return Estimate(seconds, at_most=not limited)


def _drain_by_days(depth: float, rate: float, allowance: Allowance, now: int) -> float | None:
    """Return the seconds until `depth` changes are sent, each day as many as the budget allows."""
    waited, left = 0.0, allowance.left
    day = (allowance.ends_at - now) / 1000
    while waited <= FAR:
        most = min(left / allowance.per_change, rate * day)
        if depth <= most:
            return waited + depth / rate
        depth -= most
        waited += day
        left, day = allowance.per_day, 86_400.0
        if min(left / allowance.per_change, rate * day) < 1:
            return None
    return None


# -- how long the data budget lasts -------------------------------------------------------------------


def bytes_per_change(hours: Sequence[Totals]) -> float | None:
    """Return the bytes that are sent for each change, with all that is sent besides; None if nothing was delivered."""
    published = sum(hour.published for hour in hours)
    return sum(hour.sent for hour in hours) / published if published else None


def budget_lasts(
    *,
    depth: int,
    load: Load | None,
    link: float | None,
    allowance: Allowance,
    now: int,
    hour_of: Callable[[int], int],
) -> Estimate | None:
    """Return for how long what is left of today's budget lasts while connected; at most until the day ends.

    What waits is sent as fast as the link carries it, and what is made later as it is made.

    :param link: the link's rate in changes a second; None if it is not known.
    :returns: None if that is not known.
    """
    end = (allowance.ends_at - now) / 1000
    left = allowance.left / allowance.per_change
    if left <= 0:
        return Estimate(0.0)
    if load is None:
        return None
    made = load.until(left - depth, now, hour_of) if depth < left else 0.0
    carried = left / link if link else 0.0
    return Estimate(min(end, max(made if made is not None else end, carried)))


def in_units(seconds: float) -> list[tuple[int, str]]:
    """Return a duration in its two largest units, as `[(6, "d"), (4, "h")]`; at least one second.

    It is rounded to the smaller of the two; a unit with the count 0 is left out.
    """
    left = max(1, round(seconds))
    for index, (_, size) in enumerate(UNITS):
        if left >= size:
            smaller = UNITS[min(index + 1, len(UNITS) - 1)][1]
            left = round(left / smaller) * smaller
            break
    found: list[tuple[int, str]] = []
    for unit, size in UNITS:
        count, left = divmod(left, size)
        if count and len(found) < 2:
            found.append((count, unit))
    return found
