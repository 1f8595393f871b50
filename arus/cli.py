"""`flask sync ...`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
import orjson
from flask import current_app
from flask.cli import AppGroup
from sqlalchemy.exc import DBAPIError

from .changes import UNDELIVERED, ChangeRecord
from .counters import DROPPED, FAILURES, PUBLISHED
from .errors import ChangeError
from .message import ChangeState, iso, now_ms
from .status import SyncStatus

if TYPE_CHECKING:
    from .extension import AppState

sync_commands = AppGroup("sync", help="See and steer the synchronisation with the shore.")


@sync_commands.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def status_command(as_json: bool) -> None:
    """Show connection, queue, owner and counters.

    \b
    Examples:
      flask --app wsgi sync status
      flask --app wsgi sync status --json
    """  # noqa: D301  # a backspace tells click to keep the lines
    state = _state()
    with _one_line():
        status = state.status()
    if as_json:
        click.echo(json.dumps(_as_json(status, str(state.settings.broker)), indent=2))
    else:
        _print(status, str(state.settings.broker))


@sync_commands.group("queue", no_args_is_help=True)
def queue_commands() -> None:
    """See the changes one by one; retry or discard those that can't be sent.

    A change is pending (not sent yet), in_flight (sent, not acknowledged), delivered, quarantined (can't be
    sent; waits for a person), superseded (replaced by a newer one when the queue was full) or dropped.
    """


class _States(click.ParamType[tuple[ChangeState, ...]]):
    name = "state,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[ChangeState, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(ChangeState(word.strip()) for word in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of {', '.join(ChangeState)}", param, ctx)


_state_option = click.option(
    "--state", "states", type=_States(), help="Only changes in these states, with commas between."
)
_entity_option = click.option("--entity", help="Only changes of this entity, like work_orders.")
_all_option = click.option("--all", "every", is_flag=True, help="All quarantined changes.")
_yes_option = click.option("--yes", is_flag=True, help="Ask nothing.")
_ids_argument = click.argument("message_ids", nargs=-1, metavar="[MESSAGE_ID]...")


@queue_commands.command("list")
@_state_option
@_entity_option
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    help="How many, counted from the newest.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each.")
def list_command(
    states: tuple[ChangeState, ...] | None, entity: str | None, limit: int, as_json: bool
) -> None:
    """List changes, newest first.

    \b
    Examples:
      flask --app wsgi sync queue list
      flask --app wsgi sync queue list --state quarantined
      flask --app wsgi sync queue list --state pending,in_flight --entity alerts --json
    """  # noqa: D301  # a backspace tells click to keep the lines
    with _one_line():
        found = list(islice(_newest(_state(), states or (), _known(entity), limit), limit))
    if as_json:
        for change in found:
            click.echo(orjson.dumps(change.document()))
    elif found:
        _print_changes(found)
    else:
        click.echo("no such changes", err=True)


@queue_commands.command("show")
@click.argument("message_id")
def show_command(message_id: str) -> None:
    """Show a change with its data, as JSON.

    \b
    Example:
      flask --app wsgi sync queue show 1795334400000_abc123def
    """  # noqa: D301  # a backspace tells click to keep the lines
    with _one_line():
        document = _state().change(message_id).document()
    click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))


@queue_commands.command("retry")
@_ids_argument
@_all_option
@_entity_option
@_yes_option
def retry_command(message_ids: tuple[str, ...], every: bool, entity: str | None, yes: bool) -> None:
    """Send quarantined changes after all, once what was in their way is gone.

    Each goes out with its row's present data, after everything that waits on its topic.

    \b
    Examples:
      flask --app wsgi sync queue retry 1795334400000_abc123def
      flask --app wsgi sync queue retry --all --entity work_orders --yes
    """  # noqa: D301  # a backspace tells click to keep the lines
    _decide("retry", _state().retry_change, message_ids, every=every, entity=entity, yes=yes)


@queue_commands.command("discard")
@_ids_argument
@_all_option
@_entity_option
@_yes_option
def discard_command(
    message_ids: tuple[str, ...], every: bool, entity: str | None, yes: bool
) -> None:
    """Give quarantined changes up: they are never sent, and counted as dropped.

    \b
    Examples:
      flask --app wsgi sync queue discard 1795334400000_abc123def
      flask --app wsgi sync queue discard --all --yes
    """  # noqa: D301  # a backspace tells click to keep the lines
    _decide("discard", _state().discard_change, message_ids, every=every, entity=entity, yes=yes)


@queue_commands.command("export")
@_state_option
@_entity_option
@click.option(
    "-o",
    "--output",
    default="-",
    metavar="FILE",
    help="Where to; a file is there once it is whole. Standard output by default.",
)
def export_command(states: tuple[ChangeState, ...] | None, entity: str | None, output: str) -> None:
    """Write undelivered changes with their data, oldest first, a line of JSON each.

    Without --state: pending, in_flight and quarantined ones.

    \b
    Examples:
      flask --app wsgi sync queue export > undelivered.jsonl
      flask --app wsgi sync queue export --state quarantined -o /media/usb/quarantined.jsonl
    """  # noqa: D301  # a backspace tells click to keep the lines
    count = 0
    with _one_line():
        found = _state().each_change(states or UNDELIVERED, _known(entity))
        with _output(output) as file:
            for count, change in enumerate(found, 1):  # noqa: B007  # how many there were
                file.write(orjson.dumps(change.document(), option=orjson.OPT_APPEND_NEWLINE))
    click.echo(f"{count} changes exported", err=True)


def _state() -> AppState:
    state: AppState = current_app.extensions["arus"]
    return state


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what can go wrong into one line and exit code 1."""
    try:
        yield
    except ChangeError as error:
        raise click.ClickException(str(error)) from error
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise click.ClickException(
            f"the database can't be used ({reason}); is it migrated? flask --app wsgi db upgrade"
        ) from error
    except BrokenPipeError:
        raise  # click ends quietly: whoever read has seen enough
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'writing'}: {error.strerror}") from error


def _known(entity: str | None) -> str | None:
    entities = _state().entities()
    if entity is not None and entity not in entities:
        raise click.ClickException(
            f"there is no entity {entity!r}; there are {', '.join(entities)}"
        )
    return entity


def _newest(
    state: AppState, states: Sequence[ChangeState], entity: str | None, limit: int
) -> Iterator[ChangeRecord]:
    cursor: int | None = None
    while True:
        page = state.changes(states=states, entity=entity, limit=min(limit, 500), cursor=cursor)
        yield from page.items
        cursor = page.next
        if cursor is None:
            return


def _print_changes(found: Iterable[ChangeRecord]) -> None:
    click.echo(f"{'committed':<24}  {'message id':<23}  {'state':<11}  {'seq':>8}  change, and why")
    for change in found:
        what = f"{change.operation} {change.entity} {change.row_id} v{change.version}"
        reason = f": {' '.join(change.reason.split())}" if change.reason else ""
        seq = change.seq if change.seq is not None else "-"
        click.echo(
            f"{iso(change.committed_at):<24}  {change.message_id:<23}  {change.state:<11}  {seq:>8}"
            f"  {what}{reason}"
        )


def _decide(
    verb: str,
    decide: Callable[[str], ChangeRecord],
    message_ids: Sequence[str],
    *,
    every: bool,
    entity: str | None,
    yes: bool,
) -> None:
    """Retry or discard changes, each in its own transaction; the others go on when one fails."""
    if every == bool(message_ids):
        raise click.UsageError("give message ids, or --all")
    if entity and not every:
        raise click.UsageError("--entity goes with --all")
    state = _state()
    done = failed = 0
    with _one_line():
        chosen: Iterable[str] = message_ids
        if every:
            found = state.each_change((ChangeState.QUARANTINED,), _known(entity))
            of_entity = f" of {entity}" if entity else ""
            if not yes:
                click.confirm(f"{verb} all quarantined changes{of_entity}?", abort=True, err=True)
            chosen = (change.message_id for change in found)
        for message_id in chosen:
            try:
                decide(message_id)
                done += 1
            except ChangeError as error:
                failed += 1
                click.echo(f"Error: {error}", err=True)
            state.db.session.remove()
    word = {"retry": "retried", "discard": "discarded"}[verb]
    if done or not failed:
        click.echo(f"{done} {word}")
    if failed:
        raise click.exceptions.Exit(1)


@contextmanager
def _output(name: str) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of another only once it is whole."""
    path = Path(name)
    if name == "-" or (path.exists() and not path.is_file()):
        with click.open_file(name, "wb") as stream:
            yield stream
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _as_json(status: SyncStatus, broker: str) -> dict[str, object]:
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
        "owner": status.owner.document() if status.owner else None,
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
