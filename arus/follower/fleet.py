"""The fleet as a follower's database knows it: a page of vessels, one vessel, and the figures of all.

Pages, the API, the command and the metrics read it here. The cost depends on the number of vessels, of refused rows
and of held changes, which are all limited (docs/follower.md), and never on the number of rows.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import orjson
from msgspec import Struct
from sqlalchemy import Connection

from arus.errors import UnknownVesselError
from arus.protocol.messages import FieldDifference, Verdict
from arus.protocol.times import iso_or_none, now_ms

from . import sql
from .claims import Claim, read_claims
from .fleet_query import FILTERS, FleetQuery, InvalidCursorError
from .link import FollowerLink, read_links
from .report import REFUSED_FOR, FollowedTopic, topic_of
from .saved_values import flag, saved_difference, saved_verdict
from .vessel_history import VesselEvent

#: Refused rows, held changes and events that are shown of a vessel.
MOST_SHOWN = 50


class FleetVessel(Struct, frozen=True):
    """One vessel in the list of a fleet. Times are in milliseconds since the epoch."""

    vessel_id: str
    epoch: str
    #: Everything up to this number is applied here.
    seq: int
    #: The highest number that the vessel is known to have assigned.
    head_seq: int
    #: By its last status; None before the first.
    online: bool | None
    #: When `online` last changed; None if that is not known.
    since: int | None
    #: When the vessel last sent something itself: no last will of the broker's, no retained message.
    last_heard: int | None
    #: When its last applied change was committed.
    changed_at: int | None
    #: Since when numbers are missing here; None if none is.
    behind_since: int | None
    #: The last audit of this epoch that found the copy equal, and the last audit.
    equal_at: int | None
    audited_at: int | None
    #: Rows that can't be read or written here, and changes that wait for another row.
    refused: int
    held: int
    #: Its tables have other fields than those here.
    fields_differ: bool
    #: The head that it has reported, if that is below what is proved here: it may have been restored.
    ahead_of: int | None

    @property
    def behind(self) -> int:
        """The number of known changes that are not applied here."""
        return max(0, self.head_seq - self.seq)

    @property
    def audit(self) -> Literal["equal", "differs", "none"]:
        """The result of the last audit."""
        if self.audited_at is None:
            return "none"
        return "equal" if self.equal_at == self.audited_at else "differs"

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "vesselId": self.vessel_id,
            "online": self.online,
            "since": iso_or_none(self.since),
            "epoch": self.epoch,
            "seq": self.seq,
            "headSeq": self.head_seq,
            "behind": self.behind,
            "lastHeard": iso_or_none(self.last_heard),
            "equalAt": iso_or_none(self.equal_at),
            "auditedAt": iso_or_none(self.audited_at),
            "refused": self.refused,
            "held": self.held,
        }


class FleetPage(Struct, frozen=True):
    """A page of vessels."""

    items: list[FleetVessel]
    #: The cursor of the next page; None after the last.
    next: str | None


class FleetSummary(Struct, frozen=True):
    """The figures of all vessels."""

    vessels: int
    online: int
    #: Vessels whose changes are not all applied here, how many changes, and since when at the longest.
    behind: int
    behind_changes: int
    behind_since: int | None
    #: Vessels by their last audit, and those that were found equal at least once in their epoch.
    equal: int
    audited: int
    ever_equal: int
    #: Of each vessel the last audit that found it equal; of these the oldest.
    oldest_equal_at: int | None
    #: Refused rows and held changes, and of how many vessels.
    refused: int
    refusing: int
    held: int
    holding: int
    #: Vessels with other fields than here.
    fields_differ: int

    @property
    def differs(self) -> int:
        """The number of vessels of which the last audit found a difference."""
        return self.audited - self.equal


class RefusedRow(Struct, frozen=True):
    """A row that can't be read or written here."""

    entity: str
    row_id: str
    version: int
    reason: str
    refused_at: int


class HeldChange(Struct, frozen=True):
    """A change that waits for another row."""

    entity: str
    row_id: str
    version: int
    operation: str
    reason: str
    held_at: int


class VesselDetails(Struct, frozen=True):
    """One vessel, with what is known of it beyond the list."""

    vessel: FleetVessel
    verdict: Verdict | None
    topics: Sequence[FollowedTopic]
    #: The fields that one side lacks, by entity.
    differences: Mapping[str, FieldDifference]
    claims: Sequence[Claim]
    #: The latest, newest first.
    events: Sequence[VesselEvent]
    #: The first `MOST_SHOWN` of them.
    refused: Sequence[RefusedRow]
    held: Sequence[HeldChange]


class FleetState(Struct, frozen=True):
    """Whether the vessels are followed at this moment, and their figures."""

    #: A process is at work.
    following: bool
    #: The connections of the followers that this database has had, by name.
    links: Mapping[str, FollowerLink]
    summary: FleetSummary

    @property
    def refused(self) -> list[str]:
        """Vessels that are not followed because they share the prefix of one that is, heard in the last day."""
        since = now_ms() - REFUSED_FOR
        heard = {one for link in self.links.values() for one in link.refused_since(since)}
        return sorted(heard)

    @property
    def connected(self) -> bool:
        """Whether a follower is connected to the broker; a process that was killed has left a stale link."""
        return self.following and any(link.connected for link in self.links.values())

    @property
    def obstacles(self) -> list[str]:
        """What the broker refuses to take from followers that are connected, and how to fix it."""
        found = (link.reason for link in self.links.values() if self.following and link.connected)
        return sorted({reason for reason in found if reason})


def read_page(connection: Connection, query: FleetQuery) -> FleetPage:
    """Return a page of the vessels.

    :raises InvalidCursorError: the cursor is none of this list.
    """
    values: dict[str, Any] = {"limit": query.limit + 1}
    if query.q:
        values["q"] = f"%{_escaped(query.q.lower())}%"
    if query.cursor is not None:
        values |= _read_cursor(query.cursor, query.order)
    filters = query.filters or {}
    chosen = tuple((name, filters[name]) for name in FILTERS if name in filters)
    statement = sql.fleet.page(
        chosen, query.order, searched=bool(query.q), later=query.cursor is not None
    )
    rows = connection.execute(statement, values).all()
    items = [_vessel(row) for row in rows[: query.limit]]
    if len(rows) <= query.limit:
        return FleetPage(items, None)
    last = rows[query.limit - 1]
    return FleetPage(items, _cursor(query.order, last))


def has_vessels(connection: Connection) -> bool:
    """Whether the database has copies of any vessel's rows."""
    return connection.execute(sql.fleet.ANY_VESSEL).first() is not None


def read_summary(connection: Connection) -> FleetSummary:
    """Return the figures of all vessels."""
    row = connection.execute(sql.fleet.SUMMARY).one()
    refused = connection.execute(sql.fleet.REFUSED).one()
    held = connection.execute(sql.fleet.HELD).one()
    differing = connection.execute(sql.fleet.DIFFERENCES).scalar_one()
    return FleetSummary(
        vessels=row.vessels,
        online=int(row.online),
        behind=int(row.behind),
        behind_changes=int(row.behind_changes),
        behind_since=row.behind_since,
        equal=int(row.equal),
        audited=row.audited,
        ever_equal=row.ever_equal,
        oldest_equal_at=row.oldest_equal_at,
        refused=refused.total,
        refusing=refused.vessels,
        held=held.total,
        holding=held.vessels,
        fields_differ=int(differing),
    )


def read_state(connection: Connection, *, following: bool) -> FleetState:
    """Return the state of the followers and the figures of all vessels.

    :param following: a process is at work.
    """
    links = read_links(connection)
    return FleetState(following, links, read_summary(connection))


def read_vessel(connection: Connection, vessel_id: str) -> VesselDetails:
    """Return one vessel.

    :raises UnknownVesselError: there is none with this id.
    """
    of = {"vessel_id": vessel_id}
    some = {**of, "limit": MOST_SHOWN}
    # PostgreSQL refuses a text with NUL, and no id has one.
    row = None if "\0" in vessel_id else connection.execute(sql.fleet.VESSEL, of).first()
    if row is None:
        raise UnknownVesselError(vessel_id)
    return VesselDetails(
        vessel=_vessel(row),
        verdict=saved_verdict(connection.execute(sql.fleet.AUDIT, of).scalar()),
        topics=[topic_of(one) for one in connection.execute(sql.fleet.POSITIONS, of)],
        differences={
            one.entity: saved_difference(one.difference)
            for one in connection.execute(sql.fleet.COMPARED, of)
        },
        claims=[one for one in read_claims(connection) if one.vessel_id == vessel_id],
        events=[_event(one) for one in connection.execute(sql.fleet.EVENTS, some)],
        refused=[RefusedRow(*one) for one in connection.execute(sql.fleet.REFUSED_ROWS, some)],
        held=[HeldChange(*one) for one in connection.execute(sql.fleet.HELD_CHANGES, some)],
    )


def read_row_ids(
    connection: Connection, vessel_id: str, entity: str, *, after: str = "", limit: int
) -> list[str]:
    """Return ids of a vessel's rows here, in the order of the ids.

    :param after: the id after which to continue.
    """
    wanted = {"vessel_id": vessel_id, "entity": entity, "after": after, "limit": limit}
    return list(connection.execute(sql.fleet.ROW_IDS, wanted).scalars())


def owners_of(connection: Connection, entity: str, row_ids: Collection[str]) -> dict[str, str]:
    """Return the vessels that rows here belong to, by row id; rows that no vessel has sent are left out."""
    if not row_ids:
        return {}
    found = connection.execute(sql.fleet.OWNERS, {"entity": entity, "row_ids": list(row_ids)})
    return {row.row_id: row.vessel_id for row in found}


def _vessel(row: Any) -> FleetVessel:
    return FleetVessel(
        vessel_id=row.vessel_id,
        epoch=row.epoch,
        seq=row.seq,
        head_seq=row.head_seq,
        online=flag(row.online),
        since=row.online_since,
        last_heard=row.spoke_at,
        changed_at=row.changed_at,
        behind_since=row.behind_since if row.head_seq > row.seq else None,
        equal_at=row.equal_at,
        audited_at=row.audited_at,
        refused=row.refused,
        held=row.held,
        fields_differ=bool(row.fields_differ),
        ahead_of=row.ahead_of,
    )


def _event(row: Any) -> VesselEvent:
    return VesselEvent(
        row.at, row.kind, row.entity, row.seq, row.items, flag(row.equal), row.differing
    )


def _escaped(text: str) -> str:
    """Return a text in which LIKE finds no wildcard."""
    for character in "!%_":
        text = text.replace(character, f"!{character}")
    return text


def _cursor(order: str, row: Any) -> str:
    place = [order, row.vessel_id]
    if order != "vessel_id":
        place.append(int(row.sort_key))
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")


def _read_cursor(cursor: str, order: str) -> dict[str, Any]:
    try:
        place = orjson.loads(base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error) as error:
        raise InvalidCursorError(cursor) from error
    match place:
        case ["vessel_id" as of, str(after)] if of == order and "\0" not in after:
            return {"after": after}
        case [of, str(after), int(key)] if (
            of == order != "vessel_id" and "\0" not in after and 0 <= key < 2**63
        ):
            return {"after": after, "key": int(key)}
    raise InvalidCursorError(cursor)
