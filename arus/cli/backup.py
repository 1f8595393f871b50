"""`flask sync backup`."""

from __future__ import annotations

from pathlib import Path

import click

from arus.database import database_file, is_sqlite
from arus.ops.backup import back_up
from arus.runtime import current

from .common import ended_by_sigterm, one_line, sync_commands
from .output import echo


@sync_commands.command("backup")
@click.argument("file", type=click.Path(path_type=Path))
def backup_command(file: Path) -> None:
    """Write a consistent copy of the SQLite database to FILE, also while it is in use.

    The copy holds everything in one file, and is checked before it gets its name. An existing FILE is never
    replaced. To restore it: stop the application, put it in place of the database, remove the files beside it
    that end in -wal and -shm, and start. The next connection begins a new epoch, so that followers notice.

    \b
    Examples:
      flask sync backup /media/usb/ship.sqlite
    """  # noqa: D301  # a backspace tells click to keep the lines
    url = current().engine.url
    if not is_sqlite(url):
        name = url.database or "DATABASE"
        raise click.ClickException(
            f"the database is not a SQLite file; on PostgreSQL use its own tool:"
            f" pg_dump --format=custom --host={url.host or 'localhost'} --file={file} {name}"
        )
    database = database_file(url)
    if database is None:
        raise click.ClickException("the database is in memory: there is no file to copy")
    with one_line(), ended_by_sigterm():
        size = back_up(database, file)
    echo(f"{size / 1024 / 1024:.1f} MB copied to {file}")
