"""`flask sync catchup`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click
import orjson

from arus import signals
from arus.catchup.requests import CatchupState, CatchupStatus
from arus.errors import CatchupRequestError
from arus.protocol.messages import ALL, DEFAULT_LIMIT
from arus.protocol.requests import MAX_LIMIT, parse_since
from arus.protocol.times import iso
from arus.runtime import Runtime, current

from .common import ParamType, candidate, known, one_line, sync_commands
from .output import echo, echo_json

#: Seconds between two queries for the progress of a catch-up that another process sends.
LOOK_EVERY = 0.2
#: Queries without a connection after which a message says so.
PATIENCE = 15


class _Since(ParamType[datetime]):
    name = "time|2h|3d"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return parse_since(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@sync_commands.command("catchup")
@click.argument("entity", metavar="ENTITY|all")
@click.option(
    "--since",
    metavar="TIME|2h|3d",
    type=_Since(),
    help="Only what was committed since then: a time (UTC if it has no zone), or how long ago.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LIMIT),
    help=f"At most so many items of each entity; {DEFAULT_LIMIT} by default.",
)
@click.option("--all", "everything", is_flag=True, help="No limit; without --since, all rows.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.pass_context
def catchup_command(
    ctx: click.Context,
    entity: str,
    since: datetime | None,
    limit: int | None,
    everything: bool,
    as_json: bool,
) -> None:
    """Send rows again, including deletes, for receivers that have missed something.

    If a server runs, it sends the rows; otherwise this command does. If the broker can't be reached, the
    command waits for it; Ctrl-C leaves the catch-up queued for the process that connects next.

    \b
    Examples:
      flask sync catchup work_orders --since 2h
      flask sync catchup all --since 2026-11-20T06:00:00Z --limit 5000
      flask sync catchup all --since 3d --all
      flask sync catchup equipment --all --json
    """  # noqa: D301  # a backspace tells click to keep the lines
    if since is None and not everything:
        raise click.UsageError("give --since, or --all for all rows", ctx)
    if limit is not None and everything:
        raise click.UsageError("--limit and --all can't be combined", ctx)
    document = {
        "entity": entity if entity == ALL else known(entity),
        "since": iso(int(since.timestamp() * 1000)) if since else None,
        "limit": None if everything else limit or DEFAULT_LIMIT,
    }
    sync = current()
    with one_line():
        try:
            queued = sync.catchups.request(document, origin="cli")
        except CatchupRequestError as error:
            raise click.UsageError(str(error), ctx) from error
        ended = _follow(sync, queued, as_json=as_json)
    if as_json:
        echo_json(orjson.dumps(ended.document(), option=orjson.OPT_INDENT_2))
    if not ended.finished:
        echo(f"interrupted: catch-up {ended.catchup_id} stays queued", err=True)
        raise click.exceptions.Exit(130)
    if ended.status is CatchupState.FAILED:
        raise click.ClickException(f"catch-up {ended.catchup_id} failed: {ended.reason}")
    if not as_json:
        echo(f"complete: {ended.published} sent, catch-up {ended.catchup_id}")
    if any(part.next for part in ended.entities):
        echo("there is more beyond the limit: raise --limit, or give --all", err=True)


def _follow(sync: Runtime, queued: CatchupStatus, *, as_json: bool) -> CatchupStatus:
    """Wait until a catch-up has ended and return its status; on Ctrl-C, return the status at that moment."""
    watch = _Watch(sync, queued)
    try:
        with signals.error.connected_to(watch.failed, sender=sync.app), candidate():
            for part in queued.entities:
                if as_json:
                    watch.until_finished(part.entity)
                else:
                    _show(watch, part.entity)
    except KeyboardInterrupt:
        # Read again: messages in flight may have been acknowledged meanwhile.
        return sync.catchups.find(queued.catchup_id)
    return watch.last


class _Watch:
    """Follows a catch-up until it has ended, and says once why it has to wait."""

    def __init__(self, sync: Runtime, queued: CatchupStatus) -> None:
        self._sync = sync
        self.last = queued
        self._looks = 0
        self._said = False
        self._error: Exception | None = None

    def failed(self, _sender: Any, error: Exception, **_values: Any) -> None:
        """Remember why this process has no connection."""
        self._error = error

    def looks(self, entity: str) -> Iterator[tuple[int, int | None]]:
        """Yield the sent items of an entity and their total, until the entity is finished."""
        while True:
            self.last = self._sync.catchups.find(self.last.catchup_id)
            part = next(part for part in self.last.entities if part.entity == entity)
            yield part.published, part.total
            if part.finished:
                return
            self._say_if_away()
            time.sleep(LOOK_EVERY)

    def until_finished(self, entity: str) -> None:
        """Return once an entity is finished."""
        for _ in self.looks(entity):
            pass

    def _say_if_away(self) -> None:
        if self._said:
            return
        status = self._sync.status()
        if status.usage.catchups_until is not None:
            self._said = True
            echo(
                f"the data budget makes catch-ups wait until {iso(status.usage.catchups_until)};"
                " Ctrl-C leaves the catch-up queued",
                err=True,
            )
        self._looks = 0 if status.connected else self._looks + 1
        if self._said or self._looks < PATIENCE:
            return
        self._said = True
        why = f" ({self._error})" if self._error else ""
        echo(
            f"there is no connection to the broker{why}: waiting for it;"
            " Ctrl-C leaves the catch-up queued",
            err=True,
        )


def _show(watch: _Watch, entity: str) -> None:
    if not sys.stdout.isatty():
        watch.until_finished(entity)
        ended = next(part for part in watch.last.entities if part.entity == entity)
        echo(f"{entity}: {ended.published} sent ({ended.reason or ended.mode})")
        return
    looks = watch.looks(entity)
    planned = next(((done, total) for done, total in looks if total is not None), (0, 0))
    done, total = planned
    with click.progressbar(length=total, label=f"{entity:<22}", show_pos=True) as bar:
        bar.update(done)
        for now, _ in looks:
            bar.update(now - done)
            done = now
