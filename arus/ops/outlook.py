"""The forecasts of one application, from its history (`arus.ops.forecast`)."""

from __future__ import annotations

from msgspec import Struct
from sqlalchemy import Connection

from arus.outbox import sql
from arus.outbox.status import SyncStatus

from .forecast import (
    DAY,
    DAYS,
    Allowance,
    Estimate,
    Totals,
    budget_lasts,
    bytes_per_change,
    link_rate,
    load_of,
    time_to_drain,
    time_to_full,
)
from .overview import Day


class Outlook(Struct, frozen=True):
    """What is to be expected; each None if it is not known."""

    #: Until the queue is full, without a link.
    full: Estimate | None
    #: Until what waits is sent.
    drain: Estimate | None
    #: For how long today's data budget lasts, at most until midnight.
    budget: Estimate | None
    #: Changes a day.
    per_day: float


def read_outlook(connection: Connection, status: SyncStatus, day: Day, *, merges: bool) -> Outlook:
    """Return the forecasts.

    :param day: the last 24 hours.
    :param merges: waiting changes of the same row replace each other (`MQTT_SUPERSEDE=always`).
    """
    now = day.end
    data = status.usage.budget
    rows = connection.execute(sql.history.HOURS, {"after": now - (DAYS + 1) * DAY})
    hours = [Totals(*row) for row in rows]

    def hour_of(moment: int) -> int:
        return data.local(moment).hour

    load = load_of(
        hours, depth=status.depth, observed_from=day.observed_from, now=now, hour_of=hour_of
    )
    since = status.connected_changed_at if status.connected else None
    allowance = _allowance(status, hours)
    budget = None
    if allowance is not None and status.connected:
        rate = link_rate(day.samples, now=now, connected_since=since)
        budget = budget_lasts(
            depth=status.depth,
            load=load,
            link=rate[0] if rate and rate[1] else None,
            allowance=allowance,
            now=now,
            hour_of=hour_of,
        )
    return Outlook(
        full=time_to_full(
            depth=status.depth,
            limit=status.max_queue_size,
            load=load,
            now=now,
            hour_of=hour_of,
            merges=merges,
        ),
        drain=time_to_drain(
            depth=status.depth,
            samples=day.samples,
            now=now,
            connected_since=since,
            allowance=allowance,
        ),
        budget=budget,
        per_day=0.0 if load is None else load.per_day,
    )


def _allowance(status: SyncStatus, hours: list[Totals]) -> Allowance | None:
    usage = status.usage
    per_change = bytes_per_change(hours)
    if usage.budget.limit is None or not per_change:
        return None
    left = 0 if usage.is_held else max(0, usage.budget.ordinary - usage.used)
    return Allowance(left, usage.budget.ordinary, usage.resets_at, per_change)
