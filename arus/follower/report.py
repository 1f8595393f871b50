"""The status of a follower, read from its database."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import orjson
from msgspec import Struct
from sqlalchemy import Connection

from arus.database import translated
from arus.outbox.counters import CounterKey, read_counters
from arus.protocol.encoding import encode
from arus.protocol.messages import FieldDifference
from arus.protocol.times import iso, iso_or_none, now_ms
from arus.protocol.topics import TopicTree

from . import outcome, sql
from .claims import Claim, read_claims
from .link import FollowerLink, read_links
from .partitions.report import PartitionStatus, read_partitions
from .position import Need
from .saved_values import flag, saved_difference

_COUNTERS = {
    "applied": outcome.APPLIED,
    "repeated": outcome.REPEATED,
    "refused": outcome.REFUSED,
    "late": outcome.LATE,
    "held": outcome.HELD,
    "notHeld": outcome.NOT_HELD,
    "forgotten": outcome.FORGOTTEN,
    "gaps": outcome.GAPS,
    "swept": outcome.SWEPT,
    "requests": outcome.REQUESTS,
    "catchups": outcome.CATCHUPS,
    "epochs": outcome.EPOCHS,
    "doubted": outcome.DOUBTED,
    "foreign": outcome.FOREIGN,
    "unrequested": outcome.UNREQUESTED,
}


#: Milliseconds for which a vessel on a shared prefix that is not followed is reported after its last message.
REFUSED_FOR = 86_400_000


class Scope(Struct, frozen=True):
    """What a follower follows: the settings MQTT_TOPIC_PREFIX and FOLLOW_VESSELS."""

    tree: TopicTree
    #: Ids of vessels; None for every vessel.
    named: Collection[str] | None = None

    @property
    def topics(self) -> str:
        """The prefix of the topics of every vessel."""
        return self.tree.any_vessel

    def __str__(self) -> str:
        whom = "every vessel" if self.named is None else ", ".join(sorted(self.named))
        if self.named is None and not self.tree.is_per_vessel:
            whom = "one vessel, and those that it knows already"
        return f"{self.topics}/#: {whom}"


class FollowedTopic(Struct, frozen=True):
    """One topic of a vessel."""

    topic: str
    #: All of it up to this number is applied.
    seq: int
    #: What is missing: nothing (empty), changes, everything, snapshot or rows.
    wants: str
    #: Items received and expected in the running catch-up; None if none is running.
    received: int | None
    expected: int | None
    #: Rows that a snapshot did not contain and that wait for a digest of the vessel; whether one did not agree.
    unswept: int = 0
    disputed: bool = False


class FollowedVessel(Struct, frozen=True):
    """One vessel that is followed."""

    vessel_id: str
    epoch: str
    #: Everything up to this number is applied.
    seq: int
    #: The highest number that the vessel is known to have assigned.
    head_seq: int
    online: bool | None
    #: Milliseconds: when a message of it was last received, and when its last applied change was committed.
    heard_at: int
    changed_at: int | None
    #: Changes that wait for a row that they refer to.
    held: int
    #: Rows that can't be read or written here.
    refused: int
    #: The result of the last comparison with the vessel's digest.
    audit: Any
    topics: tuple[FollowedTopic, ...]
    #: Rows by entity.
    rows: dict[str, int]
    #: The head that it has reported, if that is below what is proved here: its database may have been restored.
    ahead_of: int | None
    #: Number of rows that it has sent but that belong to other vessels ashore, by entity.
    claimed: dict[str, int]
    #: To which vessels these belong, and why they are sent.
    claims: tuple[Claim, ...]
    #: The fields that one side lacks, by entity.
    differences: dict[str, FieldDifference]
    #: FOLLOW_VESSELS accepts it; if not, its rows stay here, and nothing of it is received.
    followed: bool = True

    @property
    def lag(self) -> int:
        """The number of known changes that are not applied."""
        return max(0, self.head_seq - self.seq)

    @property
    def up_to_date(self) -> bool:
        """Whether nothing is known to be missing."""
        return (
            not self.lag
            and not self.held
            and self.ahead_of is None
            and not any(topic.wants or topic.unswept for topic in self.topics)
        )

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "vesselId": self.vessel_id,
            "epoch": self.epoch,
            "seq": self.seq,
            "headSeq": self.head_seq,
            "lag": self.lag,
            "upToDate": self.up_to_date,
            "followed": self.followed,
            "online": self.online,
            "heardAt": iso(self.heard_at),
            "lastChangeAt": iso_or_none(self.changed_at),
            "held": self.held,
            "refused": self.refused,
            "rows": self.rows,
            "claimed": self.claimed,
            "aheadOf": self.ahead_of,
            "claims": [claim.document() for claim in self.claims],
            "fields": {
                entity: orjson.loads(encode(told)) for entity, told in self.differences.items()
            },
            "topics": [
                {
                    "topic": topic.topic,
                    "seq": topic.seq,
                    "wants": topic.wants or None,
                    "catchup": None
                    if topic.received is None
                    else {"received": topic.received, "total": topic.expected},
                    "unswept": topic.unswept,
                    "disputed": topic.disputed,
                }
                for topic in self.topics
            ],
            "audit": self.audit,
        }


class FollowerStatus(Struct, frozen=True):
    """The status of a follower."""

    name: str
    #: A process is at work.
    following: bool
    #: Its connection to the broker; None before its first attempt to connect.
    link: FollowerLink | None
    vessels: tuple[FollowedVessel, ...]
    counters: dict[str, int]
    scope: Scope
    #: Vessels that are not followed because they share the prefix of one that is: when each was last heard, in
    #: milliseconds since the epoch.
    refused: dict[str, int]
    #: Its partitions; empty if one process follows all vessels.
    partitions: tuple[PartitionStatus, ...] = ()

    @property
    def connected(self) -> bool:
        """Whether it is connected to the broker; a process that was killed has left a stale link."""
        if self.partitions:
            return all(one.is_connected for one in self.partitions)
        return self.following and self.link is not None and self.link.connected

    @property
    def reason(self) -> str | None:
        """Why it is not connected, or what the broker refuses to take from it; None while no process is at work."""
        return self.link.reason if self.following and self.link is not None else None

    @property
    def up_to_date(self) -> bool:
        """Whether at least one vessel is followed and nothing is known to be missing."""
        followed = [vessel for vessel in self.vessels if vessel.followed]
        return bool(followed) and all(vessel.up_to_date for vessel in followed)

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "name": self.name,
            "following": self.following,
            "connected": self.connected,
            "reason": self.reason,
            "upToDate": self.up_to_date,
            "topics": self.scope.topics,
            "followVessels": None if self.scope.named is None else sorted(self.scope.named),
            "notFollowed": [
                {"vesselId": vessel_id, "heardAt": iso(at)}
                for vessel_id, at in self.refused.items()
            ],
            "vessels": [vessel.document() for vessel in self.vessels],
            "counters": self.counters,
            "partitions": [one.document() for one in self.partitions],
        }


def read_follower(
    connection: Connection, name: str, scope: Scope, *, following: bool
) -> FollowerStatus:
    """Read the status of this database's follower.

    :raises LogUnavailableError: the database can't be used.
    """
    with translated():
        held = {row.vessel_id: row.held for row in connection.execute(sql.report.HELD)}
        refused = {row.vessel_id: row.refused for row in connection.execute(sql.refusals.COUNTS)}
        rows: dict[str, dict[str, int]] = {}
        claimed: dict[str, dict[str, int]] = {}
        for row in connection.execute(sql.report.ROWS):
            kind = claimed if row.claimed else rows
            kind.setdefault(row.vessel_id, {})[row.entity] = row.rows
        claims = read_claims(connection)
        differences = _differences(connection)
        topics: dict[str, list[FollowedTopic]] = {}
        for row in connection.execute(sql.report.POSITIONS):
            topics.setdefault(row.vessel_id, []).append(topic_of(row))
        vessels = tuple(
            FollowedVessel(
                vessel_id=row.vessel_id,
                epoch=row.epoch,
                seq=row.seq,
                head_seq=row.head_seq,
                online=flag(row.online),
                heard_at=row.heard_at,
                changed_at=row.changed_at,
                held=held.get(row.vessel_id, 0),
                refused=refused.get(row.vessel_id, 0),
                audit=orjson.loads(row.audit) if row.audit else None,
                topics=tuple(topics.get(row.vessel_id, ())),
                rows=rows.get(row.vessel_id, {}),
                claimed=claimed.get(row.vessel_id, {}),
                followed=scope.named is None or row.vessel_id in scope.named,
                ahead_of=row.ahead_of,
                claims=tuple(claim for claim in claims if claim.vessel_id == row.vessel_id),
                differences=differences.get(row.vessel_id, {}),
            )
            for row in connection.execute(sql.report.VESSELS)
        )
        counted = read_counters(connection)
        links = read_links(connection)
        partitions = read_partitions(connection, links)
    link = links.get(name)
    counters = _sums(counted)
    refused = link.refused_since(now_ms() - REFUSED_FOR) if link is not None else {}
    return FollowerStatus(name, following, link, vessels, counters, scope, refused, partitions)


def _sums(counted: Mapping[CounterKey, int]) -> dict[str, int]:
    return {
        word: sum(value for key, value in counted.items() if key[0] == name)
        for word, name in _COUNTERS.items()
    }


def _differences(connection: Connection) -> dict[str, dict[str, FieldDifference]]:
    found: dict[str, dict[str, FieldDifference]] = {}
    for row in connection.execute(sql.report.DIFFERENCES):
        found.setdefault(row.vessel_id, {})[row.entity] = saved_difference(row.difference)
    return found


def topic_of(row: Any) -> FollowedTopic:
    """Return the state of a topic from its position's record."""
    run = orjson.loads(row.run) if row.run else None
    if run is not None and not run["useful"]:
        run = None  # it does not fulfil a request of ours
    sweep = orjson.loads(row.sweep) if row.sweep else None
    wants = row.need or (Need.CHANGES.value if orjson.loads(row.beyond) else "")
    return FollowedTopic(
        topic=row.topic,
        seq=row.seq,
        wants=wants,
        received=run["expected"] if run else None,
        expected=run["total"] if run else None,
        unswept=sweep["rows"] if sweep else 0,
        disputed=bool(sweep and sweep["disputed"]),
    )
