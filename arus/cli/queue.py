"""`flask sync queue ...`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import click
import orjson

from arus.escapes import escaped_json
from arus.outbox.changes import UNDELIVERED, ChangeRecord
from arus.protocol.entries import ChangeState
from arus.protocol.times import iso
from arus.runtime import Runtime, current

from .common import ExplainedGroup, ParamType, decide_each, known, one_line, sync_commands
from .output import echo, echo_json


@sync_commands.group("queue", cls=ExplainedGroup, no_args_is_help=True)
def queue_commands() -> None:
    """List the changes, and retry or discard those that can't be sent.

    A change is pending (not sent yet), in_flight (sent, not acknowledged), delivered, quarantined (can't be
    sent; waits for a person), superseded (replaced by a newer one when the queue was full) or dropped.

    \b
    Examples:
      flask sync queue list
      flask sync queue retry --all
    """  # noqa: D301  # a backspace tells click to keep the lines


class _States(ParamType[tuple[ChangeState, ...]]):
    name = "state,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[ChangeState, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(ChangeState(word.strip()) for word in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of {', '.join(ChangeState)}", param, ctx)


_state_option = click.option(
    "--state", "states", type=_States(), help="Only changes in these states, separated by commas."
)
_entity_option = click.option("--entity", help="Only changes of this entity, like work_orders.")
_all_option = click.option("--all", "every", is_flag=True, help="All quarantined changes.")
_yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
_ids_argument = click.argument("message_ids", nargs=-1, metavar="[MESSAGE_ID]...")


@queue_commands.command("list")
@_state_option
@_entity_option
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    help="At most so many, the newest first.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each.")
def list_command(
    states: tuple[ChangeState, ...] | None, entity: str | None, limit: int, as_json: bool
) -> None:
    """List changes, newest first.

    \b
    Examples:
      flask sync queue list
      flask sync queue list --state quarantined
      flask sync queue list --state pending,in_flight --entity alerts --json
    """  # noqa: D301  # a backspace tells click to keep the lines
    with one_line():
        found = list(islice(_newest(current(), states or (), known(entity), limit), limit))
    if as_json:
        for change in found:
            echo_json(orjson.dumps(change.document()))
    elif found:
        _print_changes(found)
    else:
        echo("no such changes", err=True)


@queue_commands.command("show")
@click.argument("message_id")
def show_command(message_id: str) -> None:
    """Show a change with its data, as JSON.

    \b
    Example:
      flask sync queue show 1795334400000_abc123def
    """  # noqa: D301  # a backspace tells click to keep the lines
    with one_line():
        document = current().changes.find(message_id).document()
    echo_json(orjson.dumps(document, option=orjson.OPT_INDENT_2))


@queue_commands.command("retry")
@_ids_argument
@_all_option
@_entity_option
@_yes_option
def retry_command(message_ids: tuple[str, ...], every: bool, entity: str | None, yes: bool) -> None:
    """Send quarantined changes again, once the cause of the failure is fixed.

    Each is sent with its row's current data, after everything that waits on its topic.

    \b
    Examples:
      flask sync queue retry 1795334400000_abc123def
      flask sync queue retry --all --entity work_orders --yes
    """  # noqa: D301  # a backspace tells click to keep the lines
    _decide("retry", current().changes.retry, message_ids, every=every, entity=entity, yes=yes)


@queue_commands.command("discard")
@_ids_argument
@_all_option
@_entity_option
@_yes_option
def discard_command(
    message_ids: tuple[str, ...], every: bool, entity: str | None, yes: bool
) -> None:
    """Discard quarantined changes: they are never sent, and are counted as dropped.

    \b
    Examples:
      flask sync queue discard 1795334400000_abc123def
      flask sync queue discard --all --yes
    """  # noqa: D301  # a backspace tells click to keep the lines
    _decide("discard", current().changes.discard, message_ids, every=every, entity=entity, yes=yes)


@queue_commands.command("export")
@_state_option
@_entity_option
@click.option(
    "-o",
    "--output",
    default="-",
    metavar="FILE",
    help="Where to write; the file appears only when it is complete. Standard output by default.",
)
def export_command(states: tuple[ChangeState, ...] | None, entity: str | None, output: str) -> None:
    """Write undelivered changes with their data, oldest first, one JSON object a line.

    Without --state: those that are pending, in_flight or quarantined.

    \b
    Examples:
      flask sync queue export > undelivered.jsonl
      flask sync queue export --state quarantined -o /media/usb/quarantined.jsonl
    """  # noqa: D301  # a backspace tells click to keep the lines
    count = 0
    with one_line():
        found = current().changes.each(states or UNDELIVERED, known(entity))
        with _output(output) as file:
            for count, change in enumerate(found, 1):  # noqa: B007  # used after the loop
                line = orjson.dumps(change.document(), option=orjson.OPT_APPEND_NEWLINE)
                file.write(escaped_json(line.decode()).encode())
    echo(f"{count} changes exported", err=True)


def _newest(
    sync: Runtime, states: Sequence[ChangeState], entity: str | None, limit: int
) -> Iterator[ChangeRecord]:
    cursor: int | None = None
    while True:
        page = sync.changes.page(states=states, entity=entity, limit=min(limit, 500), cursor=cursor)
        yield from page.items
        cursor = page.next
        if cursor is None:
            return


def _print_changes(found: Iterable[ChangeRecord]) -> None:
    echo(
        f"{'committed':<24}  {'message id':<23}  {'state':<11}  {'seq':>8}  change, by whom, and why"
    )
    for change in found:
        what = f"{change.operation} {change.entity} {change.row_id} v{change.version}"
        actor = f" by {change.actor}" if change.actor else ""
        reason = f": {' '.join(change.reason.split())}" if change.reason else ""
        seq = change.seq if change.seq is not None else "-"
        echo(
            f"{iso(change.committed_at):<24}  {change.message_id:<23}  {change.state:<11}  {seq:>8}"
            f"  {what}{actor}{reason}"
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
    """Retry or discard changes."""
    if every == bool(message_ids):
        raise click.UsageError("give message ids, or --all")
    if entity and not every:
        raise click.UsageError("--entity requires --all")
    with one_line():
        chosen: Iterable[str] = message_ids
        if every:
            found = current().changes.each((ChangeState.QUARANTINED,), known(entity))
            of_entity = f" of {entity}" if entity else ""
            if not yes:
                click.confirm(f"{verb} all quarantined changes{of_entity}?", abort=True, err=True)
            chosen = (change.message_id for change in found)
        decide_each(chosen, decide, {"retry": "retried", "discard": "discarded"}[verb])


@contextmanager
def _output(name: str) -> Iterator[IO[bytes]]:
    """Open a file that replaces an existing one only when it is complete."""
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
