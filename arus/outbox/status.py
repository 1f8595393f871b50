"""The status of the sync for any process: read from the database, never from memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, field
from sqlalchemy import Connection

from arus.protocol.entries import ChangeState
from arus.protocol.times import iso, now_ms

from . import sql
from .counters import CounterKey
from .driver import read_rows
from .usage import DataBudget, Usage, if_ahead, in_units

#: Milliseconds that a change may wait without any acknowledgement before that is a fault.
STALLED_AFTER = 60_000
#: Milliseconds after its last status for which another vessel on the same prefix is reported: it publishes one each
#: quarter of an hour.
NEIGHBOUR_FOR = 3_600_000
#: Milliseconds for which a person is told that a proof of a restore was found.
EPOCH_NOTED_FOR = 86_400_000


class OwnerInfo(Struct, frozen=True):
    """The process that holds the session."""

    pid: int
    host: str
    #: Milliseconds since the epoch.
    since: int
    generation: int

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "pid": self.pid,
            "host": self.host,
            "since": iso(self.since),
            "generation": self.generation,
        }


class SyncStatus(Struct, frozen=True):
    """The status of the sync."""

    #: Changes are captured and relayed (LOCAL_MODE).
    enabled: bool
    connected: bool
    #: When the connection was made or lost, in milliseconds since the epoch; None before the first.
    connected_changed_at: int | None
    #: MQTT version of the connection.
    protocol: str | None
    vessel_id: str | None
    epoch: str | None
    #: Highest number of any change.
    head_seq: int
    #: Undelivered changes.
    depth: int
    max_queue_size: int
    #: Changes that can't be sent and wait for a person.
    quarantined: int
    #: When the oldest undelivered change was committed, in milliseconds since the epoch.
    oldest_pending_at: int | None
    #: When the broker last acknowledged a change, in milliseconds since the epoch; None before the first.
    acked_at: int | None
    #: Attempts since the last connection.
    reconnect_attempts: int
    #: Why the last connection or attempt ended; None while there is a connection.
    reason: str | None
    #: Since when messages of any kind wait and nothing is acknowledged, in milliseconds since the epoch; None if that
    #: is not so.
    stalled_since: int | None
    #: Why the broker refuses messages, statuses or digests; None if it does not.
    obstacle: str | None
    #: Another vessel that publishes under the same prefix, and when its status was last received (milliseconds since
    #: the epoch); None if there was none.
    neighbour: str | None
    neighbour_at: int | None
    #: What a person is told about the last proof that this database was restored, and when it was found (milliseconds
    #: since the epoch); None if there was none.
    epoch_note: str | None
    epoch_noted_at: int | None
    owner: OwnerInfo | None
    counters: Mapping[CounterKey, int]
    #: What was sent today, and what the data budget holds back.
    usage: Usage
    #: Filters that this vessel subscribes to.
    subscriptions: int

    @property
    def utilization(self) -> float:
        """How full the queue is, in percent."""
        return 100 * self.depth / self.max_queue_size

    def is_stalled(self, now: int) -> bool:
        """Whether something waits for a minute on an open connection, and nothing was acknowledged in that time.

        :param now: milliseconds since the epoch.
        """
        return self.connected and (self.stalled_since is not None or self._changes_wait(now))

    def _changes_wait(self, now: int) -> bool:
        if self.usage.is_held:
            return False  # for the next day; of what is sent in spite of it, the owner notes `stalled_since`
        since = now - STALLED_AFTER
        waits = self.oldest_pending_at is not None and self.oldest_pending_at <= since
        return waits and (self.acked_at is None or self.acked_at <= since)

    def disconnected_for(self, now: int) -> int:
        """Return the milliseconds since the connection was lost, or since the first owner tried to make one.

        0 while there is a connection, where nothing is relayed, and before the first owner.

        :param now: milliseconds since the epoch.
        """
        if not self.enabled or self.connected or self.connected_changed_at is None:
            return 0
        return max(0, now - self.connected_changed_at)

    def unacknowledged_for(self, now: int) -> int:
        """Return the milliseconds that something has waited without an acknowledgement of the broker; 0 if nothing waits.

        :param now: milliseconds since the epoch.
        """
        if self.oldest_pending_at is None:
            return 0
        return max(0, now - max(self.oldest_pending_at, self.acked_at or 0))

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
            what = f"{self.depth} changes are waiting" if self.depth else "messages are waiting"
            why = f": it refuses them for the moment ({self.obstacle})" if self.obstacle else ""
            return f"{what}, and the broker has acknowledged none for a minute{why}"
        return None

    @property
    def refused(self) -> str | None:
        """What is told of messages that the broker refuses, although others get through; None if it refuses none."""
        if not self.connected or self.obstacle is None:
            return None
        return f"the broker refuses messages: {self.obstacle}"

    def shared_with(self, now: int) -> str | None:
        """Return the other vessel that publishes under the same prefix; None if none was heard for an hour.

        :param now: milliseconds since the epoch.
        """
        if not self.enabled or self.neighbour_at is None or now - self.neighbour_at > NEIGHBOUR_FOR:
            return None
        return self.neighbour

    def told_of_restore(self, now: int) -> str | None:
        """Return what a person is to know about a proof that this database was restored; None if none was found for a day.

        :param now: milliseconds since the epoch.
        """
        at = self.epoch_noted_at
        return None if at is None or not 0 <= now - at < EPOCH_NOTED_FOR else self.epoch_note

    def reason_of(self, now: int) -> str | None:
        """Return why the sync does not get on, or does not work as it should; None if it does.

        :param now: milliseconds since the epoch.
        """
        neighbour = self.shared_with(now)
        shared = None if neighbour is None else shares_prefix(neighbour)
        held = held_back(self.usage) if self.enabled and self.usage.waiting else None
        return self.trouble(now) or shared or self.told_of_restore(now) or self.refused or held

    @property
    def waits_for_budget(self) -> bool:
        """Whether all that waits, if anything does, waits for the next day's data budget."""
        if not self.depth:
            return self.usage.catchups_until is not None
        usage = self.usage
        return usage.is_held and not usage.is_sending and self.depth == usage.ordinary_depth

    def counter(self, name: str) -> int:
        """Return a counter, over all its labels."""
        return self.totals()[name]

    def totals(self) -> Counter[str]:
        """Return all counters by name, each over all its labels."""
        found: Counter[str] = Counter()
        for (name, *_labels), value in self.counters.items():
            found[name] += value
        return found


class LastChange(Struct, frozen=True):
    """The state of the last change of a row."""

    state: ChangeState
    #: None while it has no number.
    seq: int | None


def held_back(usage: Usage) -> str:
    """Return what the data budget holds back, in one line."""
    waiting = (
        f"{usage.waiting} change waits" if usage.waiting == 1 else f"{usage.waiting} changes wait"
    )
    return (
        f"today's data budget is spent ({in_units(usage.used)} of {in_units(usage.budget.limit or 0)}): {waiting} until"
        f" midnight ({iso(usage.resets_at)}), and urgent changes are sent"
    )


def shares_prefix(neighbour: str) -> str:
    """Return what is wrong with two vessels on one prefix, and how to fix it, in one line."""
    return (
        f"vessel {neighbour} publishes under the same MQTT_TOPIC_PREFIX, and each overwrites the other's messages:"
        " put {vessel_id} into the setting on both and ashore, as in fleet/{vessel_id}/sync"
    )


def read_status(
    connection: Connection,
    *,
    enabled: bool,
    owned: bool,
    max_queue_size: int,
    budget: DataBudget | None = None,
) -> SyncStatus:
    """Read the status.

    :param owned: whether a process holds the owner's lock; if none does, there is no connection, whatever the last
        owner wrote before it was killed.
    :param budget: the data budget; None for no limit.
    """
    now, budget = now_ms(), budget or DataBudget()
    (row,) = read_rows(connection, sql.status.ONCE, {})
    once = dict(zip(sql.status.once_names, row, strict=True))
    amounts = _read_amounts(connection, budget.day(now))
    owner = _owner_in(once) if owned else None
    oldest = (once["oldest_unnumbered"], once["oldest_numbered"])
    return SyncStatus(
        enabled=enabled,
        connected=bool(owner and once["connected"]),
        connected_changed_at=once["connected_changed_at"],
        protocol=once["protocol"],
        vessel_id=once["vessel_id"],
        epoch=once["epoch"],
        head_seq=once["head_seq"] or 0,
        depth=once["depth"],
        max_queue_size=max_queue_size,
        quarantined=once["quarantined"],
        oldest_pending_at=min((at for at in oldest if at is not None), default=None),
        acked_at=once["acked_at"],
        reconnect_attempts=once["reconnect_attempts"] or 0,
        reason=once["reason"],
        stalled_since=once["stalled_since"],
        obstacle=once["obstacle"],
        neighbour=once["neighbour"],
        neighbour_at=once["neighbour_at"],
        epoch_note=once["epoch_note"],
        epoch_noted_at=once["epoch_noted_at"],
        owner=owner,
        counters=amounts.counters,
        usage=_usage_in(once, amounts, budget, now),
        subscriptions=once["subscriptions"],
    )


def _owner_in(once: Mapping[str, Any]) -> OwnerInfo | None:
    if once["owner_pid"] is None:
        return None
    return OwnerInfo(once["owner_pid"], once["owner_host"], once["owner_since"], once["generation"])


def _usage_in(once: Mapping[str, Any], amounts: _Amounts, budget: DataBudget, now: int) -> Usage:
    return Usage(
        budget,
        budget.day(now),
        budget.end(now),
        amounts.sent,
        if_ahead(once["held_until"] if budget.limit else None, now),
        if_ahead(once["catchups_until"] if budget.limit else None, now),
        sum(n for topic, n in amounts.depths.items() if topic not in budget.urgent),
        amounts.is_sending,
    )


class _Amounts(Struct):
    """What is counted by name."""

    counters: dict[CounterKey, int] = field(default_factory=dict)
    #: Bytes of the day, by kind.
    sent: dict[str, int] = field(default_factory=dict)
    #: Undelivered changes by topic, and whether any of them was sent and is not acknowledged.
    depths: dict[str, int] = field(default_factory=dict)
    is_sending: bool = False


def _read_amounts(connection: Connection, day: str) -> _Amounts:
    found = _Amounts()
    for kind, name, entity, operation, qos, amount in read_rows(
        connection, sql.status.AMOUNTS, {"day": day}
    ):
        if kind == "counter":
            found.counters[name, entity, operation, qos] = amount
        elif kind == "sent":
            found.sent[name] = amount
        else:
            found.depths[name] = amount
            found.is_sending = found.is_sending or kind == "sending"
    return found


def read_last_changes(
    connection: Connection, entity: str, row_ids: Iterable[str]
) -> dict[str, LastChange]:
    """Return the last change of each row; rows without a change in the log are left out."""
    wanted = list(row_ids)
    if not wanted:
        return {}
    rows = connection.execute(sql.changes.LAST_CHANGES, {"entity": entity, "row_ids": wanted})
    return {row.row_id: LastChange(state_of(row), row.seq) for row in rows}


def state_of(row: Any) -> ChangeState:
    """Return the state of a change, from its outcome and number and its topic queue's watermarks."""
    if row.outcome is not None:
        return ChangeState(row.outcome)
    if row.seq is None or row.sent_seq is None or row.seq > row.sent_seq:
        return ChangeState.PENDING
    return ChangeState.DELIVERED if row.seq <= row.acked_seq else ChangeState.IN_FLIGHT
