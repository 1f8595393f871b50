"""The state of the sync as text for people."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from hashlib import blake2s
from typing import Any

from flask import g
from msgspec import Struct

from arus.ops.forecast import in_units
from arus.outbox.followers import applied_up_to
from arus.outbox.status import LastChange, read_last_changes
from arus.protocol.entries import ChangeState
from arus.protocol.times import now_ms
from arus.web.chip import chip_of
from extensions import db, sync

from .i18n import _, lazy, local_number
from .once import once_a_page


class Chip(Struct, frozen=True):
    """The state of the sync in a few words."""

    #: The name of the style: delivered, waiting, offline, failed or off.
    kind: str
    text: str
    #: When the link went down, if it is down and the time is known.
    since: datetime | None = None

    @property
    def digest(self) -> str:
        """A hash by which a page recognises a chip that it already shows."""
        said = f"{self.kind}|{self.text}|{self.since}"
        return blake2s(said.encode(), digest_size=6).hexdigest()


class RowState(Struct, frozen=True):
    """The state of a row's last change."""

    kind: str
    text: Any
    title: Any


WAITING = RowState(
    "waiting", lazy("committed"), lazy("Saved on board; sent ashore when the link is up.")
)
DELIVERED = RowState(
    "delivered", lazy("delivered"), lazy("The broker has confirmed the last change.")
)
FAILED = RowState(
    "failed", lazy("quarantined"), lazy("The last change could not be sent; see the change log.")
)
UNTRACKED = RowState("none", "", "")

ROW_STATES = {
    ChangeState.PENDING: WAITING,
    ChangeState.IN_FLIGHT: WAITING,
    # Dropped and superseded changes are sent later in an automatic catch-up.
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
    applied = once_a_page("applied", lambda: applied_up_to(connection)) if changes else {}
    return {i: _row_state(changes[i], applied) if i in changes else UNTRACKED for i in ids}


def _row_state(change: LastChange, applied: dict[str, int]) -> RowState:
    seq = change.seq
    if change.state is ChangeState.DELIVERED and seq is not None:
        having = [name for name, upto in applied.items() if upto >= seq]
        if having:
            title = _("Applied ashore by %(names)s.", names=", ".join(having))
            return RowState("applied", _("applied ashore"), title)
    return ROW_STATES[change.state]


def is_ashore() -> bool:
    """Return whether this application is ashore: it shows the fleet, not a vessel."""
    return not sync.runtime().settings.local_mode


def shows_copies() -> bool:
    """Return whether the rows here are copies of vessels' rows: pages then offer no way to change them."""
    if "shows_copies" not in g:
        g.shows_copies = is_ashore() and sync.runtime().fleet.has_vessels
    return bool(g.shows_copies)


def copy_of(entity: str, row_id: str) -> str | None:
    """Return the vessel of whose row this is the copy; None aboard, and for a row of no vessel."""
    return copies_of(entity, [row_id]).get(row_id)


def copies_of(entity: str, row_ids: Collection[str]) -> dict[str, str]:
    """Return the vessels of whose rows these are the copies, by row id; empty aboard."""
    return sync.runtime().fleet.owners_of(entity, row_ids) if shows_copies() else {}


def _chip_ashore() -> Chip:
    if sync.runtime().fleet.is_followed():
        return Chip("delivered", _("following"))
    return Chip("off", _("not following"))


def chip() -> Chip:
    """Return the current chip."""
    if is_ashore():
        return _chip_ashore()
    # Reuse the status if it was already read for this response.
    status = g.pop("sync_status", None) or sync.runtime().status()
    now = chip_of(status, now_ms())
    if now.kind == "off":
        return Chip("off", _("sync off"))
    said = [_("%(count)s quarantined", count=local_number(now.failed))] if now.failed else []
    if now.waiting:
        said.append(_("%(count)s waiting", count=local_number(now.waiting)))
        if now.oldest is not None and now.oldest >= 60:
            said.append(_("oldest %(age)s", age=age(now.oldest)))
    elif now.offline:
        said.append(_("nothing waiting"))
    since = None if now.since is None else datetime.fromtimestamp(now.since / 1000, UTC)
    if now.offline and since is None:
        said.insert(0, _("link down"))
    return Chip(now.kind, ", ".join(said) or _("all delivered"), since)


def age(seconds: float) -> str:
    """Return a duration in its largest unit."""
    ((count, unit), *_rest) = in_units(seconds)
    names = {"d": _("d"), "h": _("h"), "min": _("min"), "s": _("s")}
    return f"{count}\u00a0{names[unit]}"


def vessel_id() -> str | None:
    """Return the vessel's id in its messages."""
    status = g.sync_status = sync.runtime().status()
    return status.vessel_id
