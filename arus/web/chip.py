"""The state of the whole in a few words, for a corner of each page."""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app

from arus.extension import state_of_app
from arus.message import now_ms
from arus.status import SyncStatus


@dataclass(frozen=True, slots=True)
class Chip:
    """What a chip says. Away from the shore is no fault: only what failed is amber, and nothing is red."""

    #: Names its style: delivered, waiting, offline, failed or off.
    kind: str
    #: Undelivered changes, and the age of the oldest in seconds.
    waiting: int = 0
    oldest: float | None = None
    #: Changes that can't be sent and wait for a person.
    failed: int = 0
    #: There is no link; since when, in milliseconds since the epoch, where that is known.
    offline: bool = False
    since: int | None = None


def read_chip() -> Chip:
    """Return what the chip of the current application says now."""
    return chip_of(state_of_app(current_app).status(), now_ms())


def chip_of(status: SyncStatus, now: int) -> Chip:
    """Return what the chip says of `status`."""
    if not status.enabled:
        return Chip("off")
    oldest = None
    if status.oldest_pending_at is not None:
        oldest = max(0, now - status.oldest_pending_at) / 1000
    offline = not status.connected
    if status.quarantined:
        kind = "failed"
    elif offline:
        kind = "offline"
    else:
        kind = "waiting" if status.depth else "delivered"
    since = status.connected_changed_at if offline else None
    return Chip(kind, status.depth, oldest, status.quarantined, offline, since)
