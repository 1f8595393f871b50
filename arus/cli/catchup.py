"""`flask sync catchup`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
import orjson

from arus import signals
from arus.errors import CatchupRequestError
from arus.message import iso
from arus.requests import ALL, DEFAULT_LIMIT, MAX_LIMIT, CatchupState, CatchupStatus, parse_since

from .common import candidate, known, one_line, state, sync_commands

if TYPE_CHECKING:
    from arus.extension import AppState

#: Seconds between two looks at a catch-up that another process carries out.
LOOK_EVERY = 0.2
#: Looks without a connection after which that is said.
PATIENCE = 15


class _Since(click.ParamType[datetime]):
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
    help="What was committed from then on: a time (UTC where it has no zone), or how long ago.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LIMIT),
    help=f"Items of each entity at most; {DEFAULT_LIMIT} by default.",
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
    """Send rows again, deletes included, for receivers that have missed something.

    Runs beside a live server, which then does the work, or without one. Waits for the broker where it is
    away; Ctrl-C leaves the catch-up queued for whichever process connects next.

    \b
    Examples:
      flask --app wsgi sync catchup work_orders --since 2h
      flask --app wsgi sync catchup all --since 2026-11-20T06:00:00Z --limit 5000
      flask --app wsgi sync catchup all --since 3d --all
      flask --app wsgi sync catchup equipment --all --json
    """  # noqa: D301  # a backspace tells click to keep the lines
    if since is None and not everything:
        raise click.UsageError("say from when on, by --since, or give --all for all rows", ctx)
    if limit is not None and everything:
        raise click.UsageError("--limit and --all exclude each other", ctx)
    document = {
        "entity": entity if entity == ALL else known(entity),
        "since": iso(int(since.timestamp() * 1000)) if since else None,
        "limit": None if everything else limit or DEFAULT_LIMIT,
    }
    sync = state()
    with one_line():
        try:
            queued = sync.request_catchup(document, "cli")
        except CatchupRequestError as error:
            raise click.UsageError(str(error), ctx) from error
        ended = _follow(sync, queued, as_json=as_json)
    if as_json:
        click.echo(orjson.dumps(ended.document(), option=orjson.OPT_INDENT_2))
    if not ended.finished:
        click.echo(f"interrupted: catch-up {ended.catchup_id} stays queued", err=True)
        raise click.exceptions.Exit(130)
    if ended.status is CatchupState.FAILED:
        raise click.ClickException(f"catch-up {ended.catchup_id} failed: {ended.reason}")
    if not as_json:
        click.echo(f"complete: {ended.published} sent, catch-up {ended.catchup_id}")
    if any(part.next for part in ended.entities):
        click.echo("there is more beyond the limit: raise --limit, or give --all", err=True)


def _follow(sync: AppState, queued: CatchupStatus, *, as_json: bool) -> CatchupStatus:
    """Return how a catch-up has ended, or how far it had come when a person lost patience."""
    watch = _Watch(sync, queued)
    try:
        with signals.error.connected_to(watch.failed, sender=sync.app), candidate():
            for part in queued.entities:
                if as_json:
                    watch.until_finished(part.entity)
                else:
                    _show(watch, part.entity)
    except KeyboardInterrupt:
        # Looked up again: what is on its way may have arrived meanwhile.
        return sync.catchup(queued.catchup_id)
    return watch.last


class _Watch:
    """Looks at a catch-up until it has ended, and says once that the broker is away."""

    def __init__(self, sync: AppState, queued: CatchupStatus) -> None:
        self._sync = sync
        self.last = queued
        self._looks = 0
        self._said = False
        self._error: Exception | None = None

    def failed(self, _sender: Any, error: Exception, **_values: Any) -> None:
        """Note why this process has no connection."""
        self._error = error

    def looks(self, entity: str) -> Iterator[tuple[int, int | None]]:
        """Yield how much of an entity was sent, and of how much, until no more will be."""
        while True:
            self.last = self._sync.catchup(self.last.catchup_id)
            part = next(part for part in self.last.entities if part.entity == entity)
            yield part.published, part.total
            if part.finished:
                return
            self._say_if_away()
            time.sleep(LOOK_EVERY)

    def until_finished(self, entity: str) -> None:
        """Return once no more of an entity will be sent."""
        for _ in self.looks(entity):
            pass

    def _say_if_away(self) -> None:
        if self._said:
            return
        connected = self._sync.status().connected
        self._looks = 0 if connected else self._looks + 1
        if self._looks < PATIENCE:
            return
        self._said = True
        why = f" ({self._error})" if self._error else ""
        click.echo(
            f"there is no connection to the broker{why}: waiting for it;"
            " Ctrl-C leaves the catch-up queued",
            err=True,
        )


def _show(watch: _Watch, entity: str) -> None:
    if not sys.stdout.isatty():
        watch.until_finished(entity)
        ended = next(part for part in watch.last.entities if part.entity == entity)
        click.echo(f"{entity}: {ended.published} sent ({ended.reason or ended.mode})")
        return
    looks = watch.looks(entity)
    planned = next(((done, total) for done, total in looks if total is not None), (0, 0))
    done, total = planned
    with click.progressbar(length=total, label=f"{entity:<22}", show_pos=True) as bar:
        bar.update(done)
        for now, _ in looks:
            bar.update(now - done)
            done = now
