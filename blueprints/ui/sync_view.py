"""How the state of the sync reads to a person."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2s

from arus.message import ChangeState
from extensions import sync


@dataclass(frozen=True, slots=True)
class Chip:
    """The state of the whole, in a few words."""

    #: Names the style: delivered, waiting, offline, failed or off.
    kind: str
    text: str
    #: When the link went down, if it is and that is known.
    since: datetime | None = None

    @property
    def digest(self) -> str:
        """Tells whether a page shows this already."""
        said = f"{self.kind}|{self.text}|{self.since}"
        return blake2s(said.encode(), digest_size=6).hexdigest()


@dataclass(frozen=True, slots=True)
class RowState:
    """The state of a row's last change."""

    kind: str
    text: str
    title: str


WAITING = RowState("waiting", "waiting", "Saved on board; goes ashore when the link allows.")
DELIVERED = RowState("delivered", "delivered", "The broker has confirmed the last change.")
FAILED = RowState("failed", "failed", "The last change could not be sent; see the change log.")
UNTRACKED = RowState("none", "", "")

ROW_STATES = {
    ChangeState.PENDING: WAITING,
    ChangeState.IN_FLIGHT: WAITING,
    # What was dropped or superseded is caught up with by itself.
    ChangeState.SUPERSEDED: WAITING,
    ChangeState.DROPPED: WAITING,
    ChangeState.DELIVERED: DELIVERED,
    ChangeState.QUARANTINED: FAILED,
}


def row_states(entity: str, row_ids: Iterable[str]) -> dict[str, RowState]:
    """Return the state of each row's last change."""
    ids = list(row_ids)
    states = sync.change_states(entity, ids) if ids else {}
    return {i: ROW_STATES[states[i]] if i in states else UNTRACKED for i in ids}


def chip() -> Chip:
    """Return what the chip says now."""
    status = sync.status()
    if not status.enabled:
        return Chip("off", "sync off")
    waiting = f"{status.depth} waiting" if status.depth else "nothing waiting"
    if not status.connected:
        return Chip("offline", waiting, _moment(status.connected_changed_at))
    if status.quarantined:
        failed = f"{status.quarantined} failed"
        return Chip("failed", f"{failed}, {waiting}" if status.depth else failed)
    return Chip("waiting", waiting) if status.depth else Chip("delivered", "all delivered")


def vessel_id() -> str | None:
    """Return the vessel's name in its messages."""
    return sync.status().vessel_id


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
