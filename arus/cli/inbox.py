"""`flask sync inbox ...`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import click
import orjson

from arus.errors import UnknownMessageError
from arus.protocol.times import iso
from arus.runtime import current

from .common import ExplainedGroup, decide_each, one_line, sync_commands
from .output import echo, echo_json

#: Most messages that `--all` decides on in one call.
_MOST = 10_000


@sync_commands.group("inbox", cls=ExplainedGroup, no_args_is_help=True)
def inbox_commands() -> None:
    """List received messages that could not be handled, and replay or discard them.

    \b
    Examples:
      flask sync inbox list
      flask sync inbox replay --all
    """  # noqa: D301  # a backspace tells click to keep the lines


_all_option = click.option("--all", "every", is_flag=True, help="All dead letters.")
_yes_option = click.option("--yes", is_flag=True, help="Ask nothing.")
_ids_argument = click.argument("parked_ids", nargs=-1, type=int, metavar="[ID]...")


@inbox_commands.command("list")
@click.option(
    "--limit",
    type=click.IntRange(1, _MOST),
    default=50,
    show_default=True,
    help="At most so many, the newest first.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each.")
def list_command(limit: int, as_json: bool) -> None:
    """List dead letters, newest first.

    \b
    Examples:
      flask sync inbox list
      flask sync inbox list --json
    """  # noqa: D301  # a backspace tells click to keep the lines
    with one_line():
        found = current().dead_letters.recent(limit)
    if as_json:
        for message in found:
            echo_json(orjson.dumps(message.document()))
    elif found:
        echo(f"{'id':>6}  {'since':<24}  {'tries':>5}  topic, and why")
        for message in found:
            reason = " ".join(message.reason.split())
            echo(
                f"{message.id:>6}  {iso(message.parked_at):<24}  {message.attempts:>5}"
                f"  {message.topic}: {reason}"
            )
    else:
        echo("no dead letters", err=True)


@inbox_commands.command("show")
@click.argument("parked_id", type=int, metavar="ID")
def show_command(parked_id: int) -> None:
    """Show a dead letter with its payload, as JSON.

    \b
    Example:
      flask sync inbox show 7
    """  # noqa: D301  # a backspace tells click to keep the lines
    with one_line():
        document = current().dead_letters.find(parked_id).document()
    echo_json(orjson.dumps(document, option=orjson.OPT_INDENT_2))


@inbox_commands.command("replay")
@_ids_argument
@_all_option
@_yes_option
def replay_command(parked_ids: tuple[int, ...], every: bool, yes: bool) -> None:
    """Pass dead letters to their handlers again, oldest first; each is deleted once it is handled.

    The handlers run in this process.

    \b
    Examples:
      flask sync inbox replay 7 8
      flask sync inbox replay --all --yes
    """  # noqa: D301  # a backspace tells click to keep the lines
    _decide("replay", current().dead_letters.replay, parked_ids, every=every, yes=yes)


@inbox_commands.command("discard")
@_ids_argument
@_all_option
@_yes_option
def discard_command(parked_ids: tuple[int, ...], every: bool, yes: bool) -> None:
    """Delete dead letters.

    \b
    Examples:
      flask sync inbox discard 7
      flask sync inbox discard --all --yes
    """  # noqa: D301  # a backspace tells click to keep the lines
    _decide("discard", current().dead_letters.discard, parked_ids, every=every, yes=yes)


def _decide(
    verb: str, decide: Callable[[int], None], parked_ids: Iterable[int], *, every: bool, yes: bool
) -> None:
    """Replay or discard messages."""
    if every == bool(parked_ids):
        raise click.UsageError("give ids, or --all")
    with one_line():
        if every:
            found = current().dead_letters.recent(_MOST)
            parked_ids = [message.id for message in reversed(found)]
            if not yes:
                click.confirm(f"{verb} all {len(parked_ids)} messages?", abort=True, err=True)
        kept = partial(_or_stays, decide)
        decide_each(parked_ids, kept, {"replay": "replayed", "discard": "discarded"}[verb])


def _or_stays(decide: Callable[[int], None], parked_id: int) -> None:
    try:
        decide(parked_id)
    except UnknownMessageError:
        raise
    except Exception as error:  # a handler is the application's: whatever it raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise click.ClickException(f"message {parked_id} stays: {reason}") from error
