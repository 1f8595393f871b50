"""What can be known of the sync from any process: read from the database, never from memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, text

from .counters import CounterKey, read_counters
from .message import ChangeState, iso

_SESSION = text(
    "SELECT epoch, vessel_id, head_seq, generation, owner_pid, owner_host, owner_since, connected,"
    " connected_changed_at, protocol, reconnect_attempts, reason FROM arus_session WHERE id = 1"
)
# One statement: a change that is numbered between two would be in neither.
_DEPTH = text(
    "SELECT (SELECT COALESCE(SUM(depth), 0) FROM arus_lane)"
    " + (SELECT COUNT(*) FROM arus_change WHERE seq IS NULL AND outcome IS NULL)"
)
_ACKED = text("SELECT MAX(acked_at) FROM arus_lane")
_QUARANTINED = text("SELECT COUNT(*) FROM arus_change WHERE outcome = 'quarantined'")
_OLDEST_UNNUMBERED = text(
    "SELECT committed_at FROM arus_change WHERE seq IS NULL AND outcome IS NULL ORDER BY id LIMIT 1"
)
_LANES = text("SELECT topic, acked_seq FROM arus_lane WHERE depth > 0")
_OLDEST_OF_LANE = text(
    "SELECT committed_at FROM arus_change WHERE topic = :topic AND seq > :acked_seq AND outcome IS NULL"
    " ORDER BY seq LIMIT 1"
)
_LAST_CHANGES = text(
    "SELECT c.row_id, c.seq, c.outcome, l.sent_seq, l.acked_seq"
    " FROM arus_change c LEFT JOIN arus_lane l ON l.topic = c.topic"
    " WHERE c.id IN (SELECT MAX(id) FROM arus_change WHERE entity = :entity AND row_id IN :row_ids"
    " GROUP BY row_id)"
).bindparams(bindparam("row_ids", expanding=True))


#: Milliseconds that a change waits, with nothing acknowledged, until that is a fault.
STALLED_AFTER = 60_000


@dataclass(frozen=True, slots=True)
class OwnerInfo:
    """The process that holds the session."""

    pid: int
    host: str
    #: Milliseconds since the epoch.
    since: int
    generation: int

    def document(self) -> dict[str, Any]:
        """Return it as it stands in JSON."""
        return {
            "pid": self.pid,
            "host": self.host,
            "since": iso(self.since),
            "generation": self.generation,
        }


@dataclass(frozen=True, slots=True)
class SyncStatus:
    """Where the sync stands."""

    #: Changes are captured and relayed (LOCAL_MODE).
    enabled: bool
    connected: bool
    #: When the connection was made or lost, in milliseconds since the epoch; None before the first.
    connected_changed_at: int | None
    #: MQTT version of the connection.
    protocol: str | None
    vessel_id: str | None
    epoch: str | None
    #: Highest number given to a change.
    head_seq: int
    #: Undelivered changes.
    depth: int
    max_queue_size: int
    #: Changes that can't be sent and wait for a person.
    quarantined: int
    #: When the oldest undelivered change was committed, in milliseconds since the epoch.
    oldest_pending_at: int | None
    #: When the broker acknowledged a change last, in milliseconds since the epoch; None before the first.
    acked_at: int | None
    #: Attempts since the last connection.
    reconnect_attempts: int
    #: Why the last connection or attempt ended; None while there is a connection.
    reason: str | None
    owner: OwnerInfo | None
    counters: Mapping[CounterKey, int]

    @property
    def utilization(self) -> float:
        """How full the queue is, in percent."""
        return 100 * self.depth / self.max_queue_size

    def is_stalled(self, now: int) -> bool:
        """Whether a change has waited for a minute and nothing was acknowledged in that time.

        :param now: milliseconds since the epoch.
        """
        since = now - STALLED_AFTER
        waits = self.oldest_pending_at is not None and self.oldest_pending_at <= since
        return waits and (self.acked_at is None or self.acked_at <= since)

    def trouble(self, now: int) -> str | None:
        """Return why changes don't reach the broker; None while they do.

        :param now: milliseconds since the epoch.
        """
        if not self.enabled:
            return "LOCAL_MODE is false: nothing is captured or sent"
        if self.owner is None:
            return "no process holds the session"
        if not self.connected:
            return self.reason or "not connected yet"
        if self.is_stalled(now):
            return f"{self.depth} changes wait, and for a minute the broker has acknowledged none"
        return None

    def counter(self, name: str) -> int:
        """Return a counter, over all its labels."""
        return sum(value for (counted, *_), value in self.counters.items() if counted == name)


@dataclass(frozen=True, slots=True)
class LastChange:
    """What became of the last change of a row."""

    state: ChangeState
    #: None while it has no number.
    seq: int | None


def read_status(
    connection: Connection, *, enabled: bool, owned: bool, max_queue_size: int
) -> SyncStatus:
    """Read the status.

    :param owned: some process holds the owner's lock; without one nothing is connected, whatever the
        last owner managed to write before it was killed.
    """
    session = connection.execute(_SESSION).one_or_none()
    depth = int(connection.execute(_DEPTH).scalar_one())
    owner = None
    if session and owned and session.owner_pid is not None:
        owner = OwnerInfo(
            session.owner_pid, session.owner_host, session.owner_since, session.generation
        )
    return SyncStatus(
        enabled=enabled,
        connected=bool(session and owner and session.connected),
        connected_changed_at=session.connected_changed_at if session else None,
        protocol=session.protocol if session else None,
        vessel_id=session.vessel_id if session else None,
        epoch=session.epoch if session else None,
        head_seq=session.head_seq if session else 0,
        depth=depth,
        max_queue_size=max_queue_size,
        quarantined=int(connection.execute(_QUARANTINED).scalar_one()),
        oldest_pending_at=_oldest_pending(connection) if depth else None,
        acked_at=connection.execute(_ACKED).scalar(),
        reconnect_attempts=session.reconnect_attempts if session else 0,
        reason=session.reason if session else None,
        owner=owner,
        counters=read_counters(connection),
    )


def _oldest_pending(connection: Connection) -> int | None:
    found = [connection.execute(_OLDEST_UNNUMBERED).scalar()]
    found += [
        connection.execute(_OLDEST_OF_LANE, dict(lane)).scalar()
        for lane in connection.execute(_LANES).mappings().all()
    ]
    return min((int(at) for at in found if at is not None), default=None)


def read_last_changes(
    connection: Connection, entity: str, row_ids: Iterable[str]
) -> dict[str, LastChange]:
    """Return the last change of each row; rows without a change in the log are left out."""
    wanted = list(row_ids)
    if not wanted:
        return {}
    rows = connection.execute(_LAST_CHANGES, {"entity": entity, "row_ids": wanted})
    return {row.row_id: LastChange(state_of(row), row.seq) for row in rows}


def state_of(row: Any) -> ChangeState:
    """Return the state of a change, from its outcome and number and its lane's watermarks."""
    if row.outcome is not None:
        return ChangeState(row.outcome)
    if row.seq is None or row.sent_seq is None or row.seq > row.sent_seq:
        return ChangeState.PENDING
    return ChangeState.DELIVERED if row.seq <= row.acked_seq else ChangeState.IN_FLIGHT
