"""The pieces of the sync page that are updated while it is open, read from the database on one connection."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2s
from typing import Any

from flask import render_template
from msgspec import Struct, field
from sqlalchemy import Connection

from arus.catchup.requests import DIGEST_OF_ALL, CatchupStatus, recent
from arus.inbound.dead_letters import DeadLetter, list_dead_letters
from arus.ops.forecast import Sample
from arus.ops.outlook import Outlook, read_outlook
from arus.ops.overview import (
    ConflictRecord,
    Counts,
    Day,
    count_conflicts,
    count_parked,
    read_conflicts,
    read_counts,
    read_day,
)
from arus.outbox.brokers import KnownBroker, read_broker
from arus.outbox.followers import FollowerStatus, read_followers
from arus.outbox.status import SyncStatus, read_status
from arus.protocol.entries import ChangeState
from arus.protocol.times import now_ms
from arus.runtime import Runtime

from .chip import Chip, chip_of

#: Pieces of the page, each with its own template: `arus/_<name>.html`.
PARTS = ("chip", "link", "counts", "outages", "owner", "followers", "catchups", "attention")
#: How many of the newest items each list on the page shows.
SHOWN = 5


class Overview(Struct, frozen=True):
    """All that the page shows, at one moment."""

    now: int
    chip: Chip
    status: SyncStatus
    counts: Counts
    day: Day
    outlook: Outlook
    followers: Sequence[FollowerStatus]
    catchups: Sequence[CatchupStatus]
    conflicts: Sequence[ConflictRecord]
    conflict_count: int
    dead_letters: Sequence[DeadLetter]
    dead_letter_count: int
    #: What is known of the broker, and its address without credentials.
    known: KnownBroker
    broker: str
    prefix: str
    retention_days: float
    states: Sequence[ChangeState] = field(default=tuple(ChangeState))


def read_overview(state: Runtime) -> Overview:
    """Read all that the page shows."""
    with state.db.engine.connect() as connection:
        return _read(connection, state)


def _read(connection: Connection, state: Runtime) -> Overview:
    settings = state.settings
    now = now_ms()
    status = read_status(
        connection,
        enabled=settings.local_mode,
        owned=settings.local_mode and state.lock.is_held(connection),
        max_queue_size=settings.max_queue_size,
        budget=state.data_budget,
    )
    counts = read_counts(connection)
    day = read_day(connection, now=now, complete_since=counts.complete_since)
    return Overview(
        now=now,
        chip=chip_of(status, now),
        status=status,
        counts=counts,
        day=day,
        outlook=read_outlook(connection, status, day, merges=settings.supersede_always),
        followers=read_followers(connection),
        catchups=_catchups(connection),
        conflicts=read_conflicts(connection, limit=SHOWN),
        conflict_count=count_conflicts(connection),
        dead_letters=list_dead_letters(connection, SHOWN),
        dead_letter_count=count_parked(connection),
        known=read_broker(connection, str(settings.broker)),
        broker=str(settings.broker),
        prefix=settings.topics.prefix_of(status.vessel_id)
        if status.vessel_id is not None
        else settings.topic_prefix,
        retention_days=settings.retention_days,
    )


def _catchups(connection: Connection) -> list[CatchupStatus]:
    """Return the newest catch-ups, without the requests for a digest, which are stored with them."""
    found = recent(connection, 4 * SHOWN)
    return [run for run in found if run.entities[0].entity != DIGEST_OF_ALL][:SHOWN]


def render_parts(overview: Overview) -> dict[str, str]:
    """Return the pieces as HTML, by name."""
    return {name: render_template(f"arus/_{name}.html", view=overview).strip() for name in PARTS}


def digest(html: str) -> str:
    """Return a short hash, by which a page recognises a piece that it already shows."""
    return blake2s(html.encode(), digest_size=6).hexdigest()


def chart_points(samples: Sequence[Sample], after: int) -> list[list[int]]:
    """Return the samples from the minute `after` on, as the charts expect them: minute, depth, published.

    The minute `after` is included: it may not have been over when it was read last.
    """
    return [
        [sample.minute, sample.depth, sample.published]
        for sample in samples
        if sample.minute >= after
    ]


class Hour(Struct, frozen=True):
    """The figures of one hour of the charts."""

    begin: int
    depth: int
    published: int


def hours(day: Day) -> list[Hour]:
    """Return the hours of the day in which changes were delivered or waiting, the newest first."""
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
