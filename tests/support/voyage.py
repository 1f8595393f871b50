"""A simulated month at sea: a ship's work, its link and its data budget, by a clock of its own.

It writes the history that the owner writes, and knows what happens afterwards: what a forecast is compared with.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from arus.ops.forecast import DAY, DAYS, HOUR, MINUTE, Allowance, Sample, Totals

#: Monday, 00:00 UTC.
BEGIN = 1_795_392_000_000
#: Milliseconds of a step.
STEP = 30_000
#: Bytes of a change on the wire.
SIZE = 760


@dataclass(frozen=True)
class Sea:
    """The conditions of a voyage."""

    #: Changes a day.
    per_day: float
    #: Changes a second that a link carries: each connection draws one of these, and is up to 15 % off it at times.
    rates: tuple[float, ...]
    #: Mean hours of connections and of outages.
    connected: float = 20.0
    outage: float = 6.0
    #: Bursts a day, and their changes.
    bursts: float = 0.5
    burst: tuple[int, int] = (200, 1500)
    #: The bound on the queue.
    limit: int = 10_000
    #: Bytes a day for changes that are not urgent; None for no limit.
    budget: int | None = None


@dataclass
class Moment:
    """What is known at one moment, and what then happens."""

    now: int
    depth: int
    #: None without a connection.
    connected_since: int | None
    #: Bytes sent today.
    used: int
    #: Steps of the voyage, samples written, and hours that are over.
    step: int
    samples: int
    hours: int
    #: The present hour so far.
    hour: Totals


@dataclass
class Voyage:
    """A month, in steps."""

    sea: Sea
    seed: int
    days: int = 30
    samples: list[Sample] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    #: By step: changes made and delivered so far.
    hours: list[Totals] = field(default_factory=list)
    made: list[int] = field(default_factory=list)
    delivered: list[int] = field(default_factory=list)
    #: By step: whether there was a connection, and whether the budget was spent.
    up: list[bool] = field(default_factory=list)
    spent: list[bool] = field(default_factory=list)
    _downs: list[int] = field(default_factory=list)

    def sail(self) -> Voyage:
        """Simulate it."""
        chance = random.Random(self.seed)
        steps = self.days * DAY // STEP
        arrivals = list(self._arrivals(chance, steps))
        link = list(self._link(chance, steps))
        depth, made, delivered, used, carry = 0, 0, 0, 0, 0.0
        since: int | None = None
        sample, hour = 0, 0
        for step in range(steps):
            now = BEGIN + step * STEP
            if now % DAY == 0:
                used = 0
            rate = link[step]
            since = None if not rate else since if since is not None else now
            depth += arrivals[step]
            made += arrivals[step]
            sent = 0
            if rate:
                carry = min(carry + rate * STEP / 1000, max(1.0, rate * STEP / 1000 + 1))
                sent = min(depth, int(carry))
                if self.sea.budget is not None:
                    sent = min(sent, max(0, self.sea.budget - used) // SIZE)
                carry -= sent
            used += sent * SIZE
            depth -= sent
            delivered += sent
            sample += sent
            hour += sent
            self.made.append(made)
            self.delivered.append(delivered)
            self.up.append(bool(rate))
            self.spent.append(self.sea.budget is not None and self.sea.budget - used < SIZE)
            if (now + STEP) % MINUTE == 0:
                last = self.samples[-1].depth if self.samples else 0
                if sample or depth != last:
                    minute = now // MINUTE * MINUTE
                    self.samples.append(Sample(minute, depth, sample, sample * SIZE))
                sample = 0
            totals = Totals(now // HOUR * HOUR, depth, hour, hour * SIZE)
            if (now + STEP) % HOUR == 0:
                self.hours.append(totals)
                hour = 0
            # While a backlog drains more often: that may be over in minutes.
            elif chance.random() < STEP / ((4 if rate and depth > 20 else 40) * MINUTE):
                known = (step, len(self.samples), len(self.hours), totals)
                self.moments.append(Moment(now + STEP, depth, since, used, *known))
        return self

    def _arrivals(self, chance: random.Random, steps: int) -> Iterator[int]:
        weights = [0.25] * 6 + [1.6] * 12 + [0.7] * 6
        mean = sum(weights) / 24
        for step in range(steps):
            hour = step * STEP // HOUR % 24
            expected = self.sea.per_day * weights[hour] / mean * STEP / DAY
            count = int(expected) + (chance.random() < expected % 1)
            if chance.random() < self.sea.bursts * STEP / DAY:
                count += chance.randint(*self.sea.burst)
            yield count

    def _link(self, chance: random.Random, steps: int) -> Iterator[float]:
        left, rate, up = 0.0, 0.0, False
        for _ in range(steps):
            if left <= 0:
                up = not up
                mean = self.sea.connected if up else self.sea.outage
                left = chance.expovariate(1 / mean) * HOUR
                rate = chance.choice(self.sea.rates) if up else 0.0
            left -= STEP
            yield rate * chance.uniform(0.85, 1.15)

    # -- what was known --------------------------------------------------------------------------------

    def known(self, moment: Moment) -> list[Sample]:
        """The samples that were written before a moment, of the last day."""
        begin = bisect.bisect_left(self.samples, moment.now - DAY, key=lambda one: one.minute)
        return self.samples[begin : moment.samples]

    def known_hours(self, moment: Moment) -> list[Totals]:
        """The hours of the last weeks before a moment."""
        return [*self.hours[max(0, moment.hours - (DAYS + 1) * 24) : moment.hours], moment.hour]

    def allowance(self, moment: Moment) -> Allowance | None:
        """What the budget left."""
        if self.sea.budget is None:
            return None
        ends_at = (moment.now // DAY + 1) * DAY
        return Allowance(max(0, self.sea.budget - moment.used), self.sea.budget, ends_at, SIZE)

    # -- what then happened ----------------------------------------------------------------------------

    def full_in(self, moment: Moment) -> float | None:
        """Seconds until the queue would have been full without a connection; None if that is after the voyage."""
        wanted = self.made[moment.step] + self.sea.limit - moment.depth
        step = bisect.bisect_left(self.made, wanted)
        return None if step >= len(self.made) else (step - moment.step) * STEP / 1000

    def drained_in(self, moment: Moment) -> float | None:
        """Seconds until all that waited was delivered; None if the link was cut before, or the voyage ended."""
        wanted = self.delivered[moment.step] + moment.depth
        step = bisect.bisect_left(self.delivered, wanted)
        if not moment.depth or step >= len(self.delivered) or not self.stays_up(moment.step, step):
            return None
        return (step - moment.step) * STEP / 1000

    def stays_up(self, begin: int, end: int) -> bool:
        """Whether there is a connection from one step to another."""
        if not self._downs:
            self._downs += [step for step, up in enumerate(self.up) if not up] or [len(self.up)]
        at = bisect.bisect_left(self._downs, begin)
        return at >= len(self._downs) or self._downs[at] > end

    def spent_in(self, moment: Moment) -> float | None:
        """Seconds until the budget was spent or the day ended; None if the link was cut before."""
        if moment.connected_since is None:
            return None
        step, end = moment.step, ((moment.now - 1) // DAY + 1) * DAY
        last = min((end - BEGIN) // STEP, len(self.spent)) - 1
        while step < last and not self.spent[step]:
            step += 1
        return (step - moment.step) * STEP / 1000 if self.stays_up(moment.step, step) else None
