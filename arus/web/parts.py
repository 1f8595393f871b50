"""The pieces of the sync page that change while somebody looks, read from the database in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2s
from typing import Any

from flask import render_template
from sqlalchemy import Connection

from arus.extension import AppState
from arus.followers import FollowerStatus, read_followers
from arus.forecast import Estimate, Sample, arrival_rate, time_to_drain, time_to_full
from arus.message import ChangeState, now_ms
from arus.overview import (
    ConflictRecord,
    Counts,
    Day,
    count_conflicts,
    count_parked,
    read_conflicts,
    read_counts,
    read_day,
)
from arus.parked import ParkedMessage, list_parked
from arus.requests import DIGEST_OF_ALL, CatchupStatus, recent
from arus.status import SyncStatus, read_status

from .chip import Chip, chip_of

#: Pieces of the page, each a template of its own: `arus/_<name>.html`.
PARTS = ("chip", "link", "counts", "outages", "owner", "followers", "catchups", "attention")
#: Of each list on the page: the newest.
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Overview:
    """All that the page shows, of one moment."""

    now: int
    chip: Chip
    status: SyncStatus
    counts: Counts
    day: Day
    #: Until the queue is full at the rate of the last day, and until it is empty; None: not known.
    full: Estimate | None
    drain: Estimate | None
    #: Changes a day.
    per_day: float
    followers: Sequence[FollowerStatus]
    catchups: Sequence[CatchupStatus]
    conflicts: Sequence[ConflictRecord]
    conflict_count: int
    parked: Sequence[ParkedMessage]
    parked_count: int
    #: Where the broker is, without credentials.
    broker: str
    prefix: str
    retention_days: float
    states: Sequence[ChangeState] = field(default=tuple(ChangeState))


def read_overview(state: AppState) -> Overview:
    """Read all that the page shows."""
    with state.db.engine.connect() as connection:
        return _read(connection, state)


def _read(connection: Connection, state: AppState) -> Overview:
    settings = state.settings
    now = now_ms()
    status = read_status(
        connection,
        enabled=settings.local_mode,
        owned=settings.local_mode and state.lock.is_held(connection),
        max_queue_size=settings.max_queue_size,
    )
    counts = read_counts(connection)
    day = read_day(connection, now=now, complete_since=counts.complete_since)
    rate = arrival_rate(day.samples, depth=status.depth, observed_from=day.observed_from, now=now)
    return Overview(
        now=now,
        chip=chip_of(status, now),
        status=status,
        counts=counts,
        day=day,
        full=time_to_full(depth=status.depth, limit=status.max_queue_size, rate=rate),
        drain=time_to_drain(depth=status.depth, samples=day.samples),
        per_day=rate * 86_400,
        followers=read_followers(connection),
        catchups=_catchups(connection),
        conflicts=read_conflicts(connection, limit=SHOWN),
        conflict_count=count_conflicts(connection),
        parked=list_parked(connection, SHOWN),
        parked_count=count_parked(connection),
        broker=str(settings.broker),
        prefix=settings.topic_prefix,
        retention_days=settings.retention_days,
    )


def _catchups(connection: Connection) -> list[CatchupStatus]:
    """Return the newest catch-ups; a request for a digest is kept like one, but sends no rows."""
    found = recent(connection, 4 * SHOWN)
    return [run for run in found if run.entities[0].entity != DIGEST_OF_ALL][:SHOWN]


def render_parts(overview: Overview) -> dict[str, str]:
    """Return the pieces as HTML, by name."""
    return {name: render_template(f"arus/_{name}.html", view=overview).strip() for name in PARTS}


def digest(html: str) -> str:
    """Tell whether a page shows this piece already."""
    return blake2s(html.encode(), digest_size=6).hexdigest()


def chart_points(samples: Sequence[Sample], after: int) -> list[list[int]]:
    """Return samples of minutes from `after` on, as the charts take them: minute, depth, published.

    The minute `after` itself is in it: it may not have been over when it was read.
    """
    return [
        [sample.minute, sample.depth, sample.published]
        for sample in samples
        if sample.minute >= after
    ]


@dataclass(frozen=True, slots=True)
class Hour:
    """An hour of the charts, in figures."""

    begin: int
    depth: int
    published: int


def hours(day: Day) -> list[Hour]:
    """Return the hours of the day in which something moved or waited, the newest first."""
    size = 3_600_000
    found: dict[int, Any] = {}
    depth = 0
    samples = iter(day.samples)
    sample = next(samples, None)
    begin = day.begin // size * size
    while begin <= day.end:
        highest, published = depth, 0
        while sample is not None and sample.minute < begin + size:
            depth = sample.depth
            highest = max(highest, depth)
            published += sample.published if sample.minute >= day.begin else 0
            sample = next(samples, None)
        if highest or published:
            found[begin] = Hour(begin, highest, published)
        begin += size
    return [found[at] for at in sorted(found, reverse=True)]
