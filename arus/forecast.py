"""What can be said ahead: when the queue is full, and how long what waits will take on this link.

Computed from the last day's samples alone. Where these say too little the answer is `None`: an estimate
that is made up is worse than none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

MINUTE = 60_000
DAY = 86_400_000
#: Milliseconds that must have been observed before a day's rate is spoken of.
ENOUGH = 10 * MINUTE
#: Minutes that tell of the link, the latest first: what it carried yesterday on another satellite is old news.
RECENT = 30
#: Seconds beyond which "when" is no answer.
FAR = 365 * 86_400

#: Seconds in each unit, the largest first.
UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


@dataclass(frozen=True, slots=True)
class Sample:
    """A minute in which something moved."""

    #: Its beginning, in milliseconds since the epoch.
    minute: int
    #: Undelivered changes at its end.
    depth: int
    #: Changes acknowledged in it.
    published: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A time, and how surely it is known."""

    seconds: float
    #: It will not take longer, but may be over much sooner: the link was never seen at its limit.
    at_most: bool = False


def arrival_rate(samples: Sequence[Sample], *, depth: int, observed_from: int, now: int) -> float:
    """Return changes that came to the queue each second over the last day, or as far back as is known.

    :param samples: in order; with the last one before that time, which tells what waited already.
    :param depth: undelivered changes now.
    :param observed_from: since when samples are taken, in milliseconds since the epoch.
    :returns: 0 where nothing came, or where too little time was observed.
    """
    begin = max(observed_from, now - DAY)
    if now - begin < ENOUGH:
        return 0.0
    waited = 0
    delivered = 0
    for sample in samples:
        if sample.minute <= begin - MINUTE:
            waited = sample.depth
        else:
            delivered += sample.published
    return max(0, delivered + depth - waited) * 1000 / (now - begin)


def time_to_full(*, depth: int, limit: int, rate: float) -> Estimate | None:
    """Return when `limit` changes wait if they keep coming at `rate` a second and none goes.

    :returns: None where that is not known, or not within a year.
    """
    if depth >= limit:
        return Estimate(0.0)
    if rate <= 0 or (limit - depth) / rate > FAR:
        return None
    return Estimate((limit - depth) / rate)


def link_rate(samples: Sequence[Sample]) -> tuple[float, bool] | None:
    """Return what the link carries, in changes a second, and whether it was seen at its limit.

    Only a minute at whose end something still waited shows the limit; any other shows what was asked of
    it. The median of the recent ones, since the first and the last minute of a backlog are partial.

    :param samples: in order.
    """
    moving = [sample for sample in samples if sample.published][-RECENT:]
    if not moving:
        return None
    saturated = [sample.published / 60 for sample in moving if sample.depth]
    if saturated:
        return max(median(saturated), 1 / 60), True
    return max(sample.published for sample in moving) / 60, False


def time_to_drain(*, depth: int, samples: Sequence[Sample]) -> Estimate | None:
    """Return how long `depth` changes take on this link; None where nothing is known of it."""
    if not depth:
        return Estimate(0.0)
    rate = link_rate(samples)
    if rate is None:
        return None
    carried, limited = rate
    return Estimate(depth / carried, at_most=not limited)


def in_units(seconds: float) -> list[tuple[int, str]]:
    """Return a duration in its two largest units, as `[(6, "d"), (4, "h")]`; under a second as one.

    Rounded to the smaller of the two; one of which there is none is left out.
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
