"""The state of the sync in a few words, for a corner of each page."""

from __future__ import annotations

from msgspec import Struct

from arus.outbox.status import SyncStatus
from arus.protocol.times import now_ms
from arus.runtime import current


class Chip(Struct, frozen=True):
    """What a chip shows. An outage is no fault: only failures are amber, and nothing is red."""

    #: The name of its style: delivered, waiting, offline, failed or off.
    kind: str
    #: Undelivered changes, and the age of the oldest in seconds.
    waiting: int = 0
    oldest: float | None = None
    #: Changes that can't be sent and wait for a person.
    failed: int = 0
    #: Whether the link is down; and since when, in milliseconds since the epoch, if that is known.
    offline: bool = False
    since: int | None = None


def read_chip() -> Chip:
    """Return the current chip of the current application."""
    return chip_of(current().status(), now_ms())


def chip_of(status: SyncStatus, now: int) -> Chip:
    """Return the chip for `status`."""
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
