"""`flask sync ...`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from flask import current_app
from flask.cli import AppGroup
from sqlalchemy.exc import DBAPIError

from .counters import DROPPED, FAILURES, PUBLISHED
from .message import iso, now_ms
from .status import SyncStatus

if TYPE_CHECKING:
    from .extension import AppState

sync_commands = AppGroup("sync", help="See and steer the synchronisation with the shore.")


@sync_commands.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def status_command(as_json: bool) -> None:
    r"""Show connection, queue, owner and counters.

    \b
    Examples:
      flask --app wsgi sync status
      flask --app wsgi sync status --json
    """
    state: AppState = current_app.extensions["arus"]
    try:
        status = state.status()
    except DBAPIError as error:
        raise click.ClickException(
            f"the database can't be read ({error.orig}); is it migrated? flask --app wsgi db upgrade"
        ) from error
    if as_json:
        click.echo(json.dumps(_as_json(status, str(state.settings.broker)), indent=2))
    else:
        _print(status, str(state.settings.broker))


def _as_json(status: SyncStatus, broker: str) -> dict[str, object]:
    owner = status.owner
    return {
        "enabled": status.enabled,
        "connected": status.connected,
        "connectedChangedAt": _time(status.connected_changed_at),
        "broker": broker,
        "protocol": status.protocol,
        "vesselId": status.vessel_id,
        "epoch": status.epoch,
        "headSeq": status.head_seq,
        "queueDepth": status.depth,
        "maxQueueSize": status.max_queue_size,
        "oldestPendingAt": _time(status.oldest_pending_at),
        "reconnectAttempts": status.reconnect_attempts,
        "owner": {
            "pid": owner.pid,
            "host": owner.host,
            "since": iso(owner.since),
            "generation": owner.generation,
        }
        if owner
        else None,
        "published": status.counter(PUBLISHED),
        "dropped": status.counter(DROPPED),
        "publishFailures": status.counter(FAILURES),
    }


def _print(status: SyncStatus, broker: str) -> None:
    since = _time(status.connected_changed_at)
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


def _time(milliseconds: int | None) -> str | None:
    return iso(milliseconds) if milliseconds is not None else None
