"""`flask sync status`."""

from __future__ import annotations

import json

import click

from arus.outbox.counters import DROPPED, FAILURES, PUBLISHED
from arus.outbox.followers import FollowerStatus
from arus.outbox.status import SyncStatus
from arus.outbox.usage import Usage, in_units
from arus.protocol.times import iso, iso_or_none, now_ms
from arus.runtime import current

from .common import one_line, sync_commands
from .output import echo, echo_json


@sync_commands.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def status_command(as_json: bool) -> None:
    """Show the connection, queue, owner, counters, and each follower's progress.

    \b
    Examples:
      flask sync status
      flask sync status --json
    """  # noqa: D301  # a backspace tells click to keep the lines
    sync = current()
    with one_line():
        status, followers = sync.status(), sync.followers()
    if as_json:
        document = _as_json(status, str(sync.settings.broker))
        document["followers"] = [follower.document() for follower in followers]
        echo_json(json.dumps(document, indent=2))
    else:
        _print(status, str(sync.settings.broker))
        for follower in followers:
            echo(f"{'follower':<10} {_followed(follower)}")


def _as_json(status: SyncStatus, broker: str) -> dict[str, object]:
    return {
        "enabled": status.enabled,
        "connected": status.connected,
        "connectedChangedAt": iso_or_none(status.connected_changed_at),
        "broker": broker,
        "protocol": status.protocol,
        "vesselId": status.vessel_id,
        "epoch": status.epoch,
        "headSeq": status.head_seq,
        "queueDepth": status.depth,
        "maxQueueSize": status.max_queue_size,
        "oldestPendingAt": iso_or_none(status.oldest_pending_at),
        "reconnectAttempts": status.reconnect_attempts,
        "reason": status.reason_of(now_ms()),
        "owner": status.owner.document() if status.owner else None,
        "published": status.counter(PUBLISHED),
        "dropped": status.counter(DROPPED),
        "publishFailures": status.counter(FAILURES),
        "dataUsage": status.usage.document(),
    }


def _followed(follower: FollowerStatus) -> str:
    if not follower.current:
        return f"{follower.name}: follows an older epoch, must fetch everything again"
    where = f"{follower.name}: applied up to {follower.seq}"
    if follower.lag:
        where += f", {follower.lag} behind, the oldest for {follower.lag_ms // 1000} s"
    if follower.audit is not None:
        where += f"; {'equal' if follower.audit.equal else 'differed'} at {follower.audit.seq}"
    return f"{where}; last report {iso(follower.received_at)}"


def _link(status: SyncStatus) -> str:
    since = iso_or_none(status.connected_changed_at)
    if not status.enabled:
        return "off (LOCAL_MODE is false)"
    if status.connected:
        return f"connected since {since}, MQTT {status.protocol}"
    failed = f"failed attempts: {status.reconnect_attempts}"
    return f"not connected yet, {failed}" if since is None else f"down since {since}, {failed}"


def _data(usage: Usage) -> str:
    limit = usage.budget.limit
    if limit is None:
        return f"{in_units(usage.used)} sent today"
    said = (
        f"{in_units(usage.used)} of {in_units(limit)} sent today, {in_units(usage.left or 0)} left,"
        f" {in_units(usage.budget.reserve)} of the budget reserved for urgent changes"
    )
    if usage.is_held:
        waiting = "1 change waits" if usage.waiting == 1 else f"{usage.waiting} changes wait"
        return f"{said}; {waiting} until {usage.budget.local(usage.resets_at):%Y-%m-%d %H:%M}"
    return said


def _print(status: SyncStatus, broker: str) -> None:
    owner = status.owner
    waiting = f"{status.depth} of {status.max_queue_size} waiting"
    if status.oldest_pending_at is not None:
        waiting += f", the oldest for {(now_ms() - status.oldest_pending_at) // 1000} s"
    lines = {
        "vessel": status.vessel_id or "no id yet",
        "broker": broker,
        "link": _link(status),
        "queue": waiting,
        "owner": f"process {owner.pid} on {owner.host}, generation {owner.generation}"
        if owner
        else "none",
        "log": f"epoch {status.epoch}, head {status.head_seq}" if status.epoch else "empty",
        "published": status.counter(PUBLISHED),
        "dropped": status.counter(DROPPED),
        "failures": status.counter(FAILURES),
        "data": _data(status.usage),
    }
    if status.enabled and (trouble := status.reason_of(now_ms())):
        lines["reason"] = trouble
    for name, value in lines.items():
        echo(f"{name:<10} {value}")
