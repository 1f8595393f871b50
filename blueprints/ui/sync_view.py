"""How the state of the sync reads to a person."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2s
from typing import Any

from flask import g

from arus.followers import applied_up_to
from arus.forecast import in_units
from arus.message import ChangeState, now_ms
from arus.status import LastChange, read_last_changes
from arus.web.chip import chip_of
from extensions import db, sync

from .i18n import _, lazy, local_number


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
    text: Any
    title: Any


WAITING = RowState(
    "waiting", lazy("committed"), lazy("Saved on board; goes ashore when the link allows.")
)
DELIVERED = RowState(
    "delivered", lazy("delivered"), lazy("The broker has confirmed the last change.")
)
FAILED = RowState(
    "failed", lazy("failed"), lazy("The last change could not be sent; see the change log.")
)
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
    """Return the state of each row's last change: committed, delivered to the broker, applied ashore."""
    ids = list(row_ids)
    if not ids:
        return {}
    connection = db.session.connection()
    changes = read_last_changes(connection, entity, ids)
    applied = applied_up_to(connection) if changes else {}
    return {i: _row_state(changes[i], applied) if i in changes else UNTRACKED for i in ids}


def _row_state(change: LastChange, applied: dict[str, int]) -> RowState:
    seq = change.seq
    if change.state is ChangeState.DELIVERED and seq is not None:
        having = [name for name, upto in applied.items() if upto >= seq]
        if having:
            title = _("Applied ashore by %(names)s.", names=", ".join(having))
            return RowState("applied", _("applied ashore"), title)
    return ROW_STATES[change.state]


def chip() -> Chip:
    """Return what the chip says now."""
    # Read just before, for the same answer.
    status = g.pop("sync_status", None) or sync.status()
    now = chip_of(status, now_ms())
    if now.kind == "off":
        return Chip("off", _("sync off"))
    said = [_("%(count)s failed", count=local_number(now.failed))] if now.failed else []
    if now.waiting:
        said.append(_("%(count)s waiting", count=local_number(now.waiting)))
        if now.oldest is not None and now.oldest >= 60:
            said.append(_("oldest %(age)s", age=_age(now.oldest)))
    elif now.offline:
        said.append(_("nothing waiting"))
    since = None if now.since is None else datetime.fromtimestamp(now.since / 1000, UTC)
    if now.offline and since is None:
        said.insert(0, _("link down"))
    return Chip(now.kind, ", ".join(said) or _("all delivered"), since)


def _age(seconds: float) -> str:
    """Return a duration in its largest unit."""
    ((count, unit), *_rest) = in_units(seconds)
    names = {"d": _("d"), "h": _("h"), "min": _("min"), "s": _("s")}
    return f"{count}\u00a0{names[unit]}"


def vessel_id() -> str | None:
    """Return the vessel's name in its messages."""
    status = g.sync_status = sync.status()
    return status.vessel_id
