"""`flask sync status`."""

from __future__ import annotations

import json

import click

from arus.counters import DROPPED, FAILURES, PUBLISHED
from arus.followers import FollowerStatus
from arus.message import iso, iso_or_none, now_ms
from arus.status import SyncStatus

from .common import one_line, state, sync_commands


@sync_commands.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def status_command(as_json: bool) -> None:
    """Show connection, queue, owner, counters, and how far each follower has come.

    \b
    Examples:
      flask --app wsgi sync status
      flask --app wsgi sync status --json
    """  # noqa: D301  # a backspace tells click to keep the lines
    sync = state()
    with one_line():
        status, followers = sync.status(), sync.followers()
    if as_json:
        document = _as_json(status, str(sync.settings.broker))
        document["followers"] = [follower.document() for follower in followers]
        click.echo(json.dumps(document, indent=2))
    else:
        _print(status, str(sync.settings.broker))
        for follower in followers:
            click.echo(f"{'follower':<10} {_followed(follower)}")


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
        "owner": status.owner.document() if status.owner else None,
        "published": status.counter(PUBLISHED),
        "dropped": status.counter(DROPPED),
        "publishFailures": status.counter(FAILURES),
    }


def _followed(follower: FollowerStatus) -> str:
    if not follower.current:
        return f"{follower.name}: follows an older epoch, has to fetch all anew"
    where = f"{follower.name}: applied up to {follower.seq}"
    if follower.lag:
        where += f", {follower.lag} behind, the oldest for {follower.lag_ms // 1000} s"
    if follower.audit is not None:
        where += f"; {'equal' if follower.audit.equal else 'differed'} at {follower.audit.seq}"
    return f"{where}; heard {iso(follower.received_at)}"


def _print(status: SyncStatus, broker: str) -> None:
    since = iso_or_none(status.connected_changed_at)
    if not status.enabled:
        link = "off (LOCAL_MODE is false)"
    elif status.connected:
        link = f"connected since {since}, MQTT {status.protocol}"
    elif since is None:
        link = "not connected yet"
    else:
        link = f"down since {since}, {status.reconnect_attempts} attempts"
    owner = status.owner
    waiting = f"{status.depth} of {status.max_queue_size} waiting"
    if status.oldest_pending_at is not None:
        waiting += f", the oldest for {(now_ms() - status.oldest_pending_at) // 1000} s"
    lines = {
        "vessel": status.vessel_id or "not named yet",
        "broker": broker,
        "link": link,
        "queue": waiting,
        "owner": f"process {owner.pid} on {owner.host}, generation {owner.generation}"
        if owner
        else "none",
        "log": f"epoch {status.epoch}, head {status.head_seq}" if status.epoch else "empty",
        "published": status.counter(PUBLISHED),
        "dropped": status.counter(DROPPED),
        "failures": status.counter(FAILURES),
    }
    for name, value in lines.items():
        click.echo(f"{name:<10} {value}")
