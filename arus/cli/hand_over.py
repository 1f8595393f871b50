"""`flask sync hand-over`."""

from __future__ import annotations

import click
from flask import current_app

from arus.follower import Follower

from .common import one_line, sync_commands
from .output import echo


@sync_commands.command("hand-over")
@click.argument("giver", metavar="FROM")
@click.argument("receiver", metavar="TO")
@click.argument("entity", required=False)
@click.option("--name", default="shore", show_default=True, help="The follower's name.")
def hand_over_command(giver: str, receiver: str, entity: str | None, name: str) -> None:
    """Hand the rows of vessel FROM over to vessel TO, in the copy ashore.

    A row belongs to the vessel that has sent it first, and no other vessel can change it. So when a vessel
    gets another VESSEL_ID, or takes over rows of another one, a person has to hand them over. Stop the
    follower first; when it is started again, it compares the rows with those aboard TO and repairs them.

    If FROM is offline, all its rows are handed over, and it is forgotten until it is online again. If FROM is
    online, or an ENTITY is named, only rows that TO has sent too are handed over.

    \b
    Examples:
      flask sync hand-over imo-9321483 aurora
      flask sync hand-over imo-9321483 aurora equipment
    """  # noqa: D301  # a backspace tells click to keep the lines
    with one_line():
        follower = Follower(current_app._get_current_object(), name)  # type: ignore[attr-defined]
        done = follower.hand_over(giver, receiver, entity)
    rows = ", ".join(f"{count} {one}" for one, count in done.rows.items())
    echo(f"{rows or 'no rows'} of {giver} belong to {receiver} now")
    if done.retired:
        echo(f"{giver} is not followed any more, unless it comes online again")
    echo("start the follower again: it compares them with the rows aboard")
