"""`flask sync inbox ...`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import click
import orjson

from arus.errors import UnknownMessageError
from arus.message import iso
from arus.parked import ParkedMessage, find_parked, list_parked

from .common import decide_each, one_line, state, sync_commands

#: Most messages that `--all` decides on in one call.
_MOST = 10_000


@sync_commands.group("inbox", no_args_is_help=True)
def inbox_commands() -> None:
    """See the received messages that could not be handled; hand them over again, or discard them.

    \b
    Examples:
      flask --app wsgi sync inbox list
      flask --app wsgi sync inbox replay --all
    """  # noqa: D301  # a backspace tells click to keep the lines


_all_option = click.option("--all", "every", is_flag=True, help="All parked messages.")
_yes_option = click.option("--yes", is_flag=True, help="Ask nothing.")
_ids_argument = click.argument("parked_ids", nargs=-1, type=int, metavar="[ID]...")


@inbox_commands.command("list")
@click.option(
    "--limit",
    type=click.IntRange(1, _MOST),
    default=50,
    show_default=True,
    help="How many, counted from the newest.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each.")
def list_command(limit: int, as_json: bool) -> None:
    """List parked messages, newest first.

    \b
    Examples:
      flask --app wsgi sync inbox list
      flask --app wsgi sync inbox list --json
    """  # noqa: D301  # a backspace tells click to keep the lines
    with one_line():
        found = _parked(limit)
    if as_json:
        for message in found:
            click.echo(orjson.dumps(message.document()))
    elif found:
        click.echo(f"{'id':>6}  {'parked':<24}  {'tries':>5}  topic, and why")
        for message in found:
            reason = " ".join(message.reason.split())
            click.echo(
                f"{message.id:>6}  {iso(message.parked_at):<24}  {message.attempts:>5}"
                f"  {message.topic}: {reason}"
            )
    else:
        click.echo("no parked messages", err=True)


@inbox_commands.command("show")
@click.argument("parked_id", type=int, metavar="ID")
def show_command(parked_id: int) -> None:
    """Show a parked message with its payload, as JSON.

    \b
    Example:
      flask --app wsgi sync inbox show 7
    """  # noqa: D301  # a backspace tells click to keep the lines
    with one_line(), state().db.engine.connect() as connection:
        document = find_parked(connection, parked_id).document()
    click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))


@inbox_commands.command("replay")
@_ids_argument
@_all_option
@_yes_option
def replay_command(parked_ids: tuple[int, ...], every: bool, yes: bool) -> None:
    """Hand parked messages to their handlers once more, oldest first; what is handled is forgotten.

    The handlers run in this process.

    \b
    Examples:
      flask --app wsgi sync inbox replay 7 8
      flask --app wsgi sync inbox replay --all --yes
    """  # noqa: D301  # a backspace tells click to keep the lines
    _decide("replay", state().replay_parked, parked_ids, every=every, yes=yes)


@inbox_commands.command("discard")
@_ids_argument
@_all_option
@_yes_option
def discard_command(parked_ids: tuple[int, ...], every: bool, yes: bool) -> None:
    """Forget parked messages.

    \b
    Examples:
      flask --app wsgi sync inbox discard 7
      flask --app wsgi sync inbox discard --all --yes
    """  # noqa: D301  # a backspace tells click to keep the lines
    _decide("discard", state().discard_parked, parked_ids, every=every, yes=yes)


def _parked(limit: int) -> list[ParkedMessage]:
    with state().db.engine.connect() as connection:
        return list_parked(connection, limit)


def _decide(
    verb: str, decide: Callable[[int], None], parked_ids: Iterable[int], *, every: bool, yes: bool
) -> None:
    """Replay or discard messages."""
    if every == bool(parked_ids):
        raise click.UsageError("give ids, or --all")
    with one_line():
        if every:
            parked_ids = [message.id for message in reversed(_parked(_MOST))]
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
