"""`flask sync new-epoch`."""

from __future__ import annotations

import click

from arus.runtime import current

from .common import one_line, sync_commands
from .output import echo


@sync_commands.command("new-epoch")
@click.option("--yes", is_flag=True, help="Do not ask.")
def new_epoch_command(yes: bool) -> None:
    """Begin a new epoch, after the database was restored from an older copy.

    The next changes would get numbers that others have had, and followers would take them for old ones. In a new
    epoch the numbers have no past, and followers fetch all rows again. The vessel does this by itself when the broker
    or a follower shows it later changes than it has, but at most once a day, and not where both have lost them. Stop
    the server first, and run this before it is started on the restored database.

    \b
    Examples:
      flask sync new-epoch
      flask sync new-epoch --yes
    """  # noqa: D301  # a backspace tells click to keep the lines
    sync = current()
    if not sync.settings.local_mode:
        raise click.ClickException("LOCAL_MODE is false: nothing is numbered here")
    if not yes:
        click.confirm("All followers will fetch all rows again. Begin a new epoch?", abort=True)
    with one_line():
        epoch = sync.begin_epoch()
    echo(f"epoch {epoch} has begun; start the server")
