"""How far a follower has come, read from its database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, text

from arus.counters import read_counters
from arus.database import translated
from arus.message import iso, iso_or_none

from . import applier
from .position import Need

_VESSELS = text(
    "SELECT vessel_id, epoch, seq, head_seq, online, heard_at, changed_at, audit FROM arus_vessel"
    " ORDER BY vessel_id"
)
_POSITIONS = text(
    "SELECT vessel_id, topic, seq, beyond, need, request, run FROM arus_position"
    " ORDER BY vessel_id, topic"
)
_ROWS = text(
    "SELECT vessel_id, entity, owner <> '' AS claimed, count(*) AS rows FROM arus_row WHERE NOT deleted"
    " GROUP BY vessel_id, entity, owner <> '' ORDER BY vessel_id, entity"
)
_HELD = text("SELECT vessel_id, count(*) AS held FROM arus_held GROUP BY vessel_id")
_COUNTERS = {
    "applied": applier.APPLIED,
    "repeated": applier.REPEATED,
    "refused": applier.REFUSED,
    "late": applier.LATE,
    "held": applier.HELD,
    "gaps": applier.GAPS,
    "swept": applier.SWEPT,
    "requests": applier.REQUESTS,
    "catchups": applier.CATCHUPS,
    "epochs": applier.EPOCHS,
    "doubted": applier.DOUBTED,
    "foreign": applier.FOREIGN,
}


@dataclass(frozen=True, slots=True)
class FollowedTopic:
    """One topic of a vessel."""

    topic: str
    #: All of it up to here is applied.
    seq: int
    #: What is missing: nothing (empty), changes, everything, snapshot or rows.
    wants: str
    #: Items received and expected of the catch-up that is running; None where none is.
    received: int | None
    expected: int | None


@dataclass(frozen=True, slots=True)
class FollowedVessel:
    """One vessel that is followed."""

    vessel_id: str
    epoch: str
    #: All up to here is applied.
    seq: int
    #: The highest number that the vessel is known to have given out.
    head_seq: int
    online: bool | None
    #: Milliseconds: when anything of it was heard last, and its last applied change was committed.
    heard_at: int
    changed_at: int | None
    #: Changes that wait for a row that they refer to.
    held: int
    #: The last comparison with the vessel's digest.
    audit: Any
    topics: tuple[FollowedTopic, ...]
    #: Rows by entity.
    rows: dict[str, int]
    #: Rows that it has and that belong to other vessels ashore, by entity.
    claimed: dict[str, int]

    @property
    def lag(self) -> int:
        """Changes that are known of and not applied."""
        return max(0, self.head_seq - self.seq)

    @property
    def up_to_date(self) -> bool:
        """Whether nothing is known to be missing."""
        return not self.lag and not self.held and not any(topic.wants for topic in self.topics)

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "vesselId": self.vessel_id,
            "epoch": self.epoch,
            "seq": self.seq,
            "headSeq": self.head_seq,
            "lag": self.lag,
            "upToDate": self.up_to_date,
            "online": self.online,
            "heardAt": iso(self.heard_at),
            "lastChangeAt": iso_or_none(self.changed_at),
            "held": self.held,
            "rows": self.rows,
            "claimed": self.claimed,
            "topics": [
                {
                    "topic": topic.topic,
                    "seq": topic.seq,
                    "wants": topic.wants or None,
                    "catchup": None
                    if topic.received is None
                    else {"received": topic.received, "total": topic.expected},
                }
                for topic in self.topics
            ],
            "audit": self.audit,
        }


@dataclass(frozen=True, slots=True)
class FollowerStatus:
    """How far a follower has come."""

    name: str
    #: A process is at work.
    following: bool
    vessels: tuple[FollowedVessel, ...]
    counters: dict[str, int]

    @property
    def up_to_date(self) -> bool:
        """Whether at least one vessel is followed and nothing is known to be missing."""
        return bool(self.vessels) and all(vessel.up_to_date for vessel in self.vessels)

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "name": self.name,
            "following": self.following,
            "upToDate": self.up_to_date,
            "vessels": [vessel.document() for vessel in self.vessels],
            "counters": self.counters,
        }


def read_follower(connection: Connection, name: str, *, following: bool) -> FollowerStatus:
    """Read how far the follower of this database has come.

    :raises LogUnavailableError: the database can't be used.
    """
    with translated():
        held = {row.vessel_id: row.held for row in connection.execute(_HELD)}
        rows: dict[str, dict[str, int]] = {}
        claimed: dict[str, dict[str, int]] = {}
        for row in connection.execute(_ROWS):
            kind = claimed if row.claimed else rows
            kind.setdefault(row.vessel_id, {})[row.entity] = row.rows
        topics: dict[str, list[FollowedTopic]] = {}
        for row in connection.execute(_POSITIONS):
            topics.setdefault(row.vessel_id, []).append(_topic(row))
        vessels = tuple(
            FollowedVessel(
                vessel_id=row.vessel_id,
                epoch=row.epoch,
                seq=row.seq,
                head_seq=row.head_seq,
                online=None if row.online is None else bool(row.online),
                heard_at=row.heard_at,
                changed_at=row.changed_at,
                held=held.get(row.vessel_id, 0),
                audit=orjson.loads(row.audit) if row.audit else None,
                topics=tuple(topics.get(row.vessel_id, ())),
                rows=rows.get(row.vessel_id, {}),
                claimed=claimed.get(row.vessel_id, {}),
            )
            for row in connection.execute(_VESSELS)
        )
        counted = read_counters(connection)
    counters = {
        word: sum(value for key, value in counted.items() if key[0] == name_)
        for word, name_ in _COUNTERS.items()
    }
    return FollowerStatus(name, following, vessels, counters)


def _topic(row: Any) -> FollowedTopic:
    run = orjson.loads(row.run) if row.run else None
    if run is not None and not run["useful"]:
        run = None  # somebody else's
    wants = row.need or (Need.CHANGES.value if orjson.loads(row.beyond) else "")
    return FollowedTopic(
        topic=row.topic,
        seq=row.seq,
        wants=wants,
        received=run["expected"] if run else None,
        expected=run["total"] if run else None,
    )
