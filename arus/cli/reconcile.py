"""`flask sync reconcile`."""

from __future__ import annotations

import click

from arus.outbox.reconciliation import Reconciled
from arus.runtime import current

from .common import known, one_line, sync_commands
from .output import echo


@sync_commands.command("reconcile")
@click.argument("entity", required=False)
@click.option(
    "--forgotten", is_flag=True, help="Log rows, too, of which the log says nothing any more."
)
def reconcile_command(entity: str | None, *, forgotten: bool) -> None:
    """Log what the tables hold and the change log does not know, deletions included.

    For rows that were written past the application: by another program, by the sqlite3 shell, or by SQL texts
    that it could not capture. The changes are sent like all others. Works beside a running server.

    Delivered changes are deleted from the log after MQTT_RETENTION_DAYS. Rows without a change in the log are
    then only counted: followers find differences in them by an audit; --forgotten logs them all.

    \b
    Examples:
      flask sync reconcile
      flask sync reconcile work_orders
    """  # noqa: D301  # a backspace tells click to keep the lines
    with one_line():
        for found in current().reconcile(known(entity), forgotten=forgotten):
            echo(_said(found))


def _said(found: Reconciled) -> str:
    if found.logged:
        done = f"logged {found.created} created, {found.updated} changed and {found.deleted} deleted rows"
    else:
        done = "nothing to log"
    rest = f"; {found.forgotten} have no change in the log any more" if found.forgotten else ""
    return f"{found.entity}: {done}; {found.rows} rows in the table{rest}"
