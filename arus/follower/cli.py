"""`flask sync follow`."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from flask import current_app

from arus.errors import FollowError, LogUnavailableError
from arus.message import iso, now_ms

from .follower import Follower
from .report import FollowedVessel, FollowerStatus


@click.command("follow")
@click.option(
    "--name",
    default="shore",
    show_default=True,
    help="What vessels know this follower by; keep it for ever.",
)
@click.option("--once", is_flag=True, help="Catch up with all vessels, and end.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="With --once: seconds after which to give up, also while another process follows.",
)
@click.option("--status", "show", is_flag=True, help="Show how far the follower has come, and end.")
@click.option("--json", "as_json", is_flag=True, help="With --status: print JSON for programs.")
def follow_command(name: str, once: bool, timeout: float | None, show: bool, as_json: bool) -> None:
    """Keep a copy of the vessels' tables in this application's database.

    Works ashore (LOCAL_MODE=false), with the broker of the MQTT settings. Ends with SIGTERM or Ctrl-C;
    goes on where it was when started again.

    \b
    Examples:
      flask --app wsgi sync follow --name shore
      flask --app wsgi sync follow --name shore --once --timeout 300
      flask --app wsgi sync follow --name shore --status --json
    """  # noqa: D301  # a backspace tells click to keep the lines
    if as_json and not show:
        raise click.UsageError("--json goes with --status")
    if timeout is not None and not once:
        raise click.UsageError("--timeout goes with --once")
    with _one_line():
        follower = Follower(current_app._get_current_object(), name)  # type: ignore[attr-defined]
        if show:
            _show(follower.status(), as_json=as_json)
            return
        with _stopped_by_signals(follower, forced=1 if once else 0):
            level = follower.run(once=once, timeout=timeout)
    if once:
        _show(follower.status(), as_json=False)
        if not level:
            raise click.ClickException("not caught up with all vessels")


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except FollowError as error:
        raise click.ClickException(str(error)) from error
    except LogUnavailableError as error:
        raise click.ClickException(
            f"{error}; is the database migrated? flask --app wsgi db upgrade"
        ) from error


#: Seconds that a follower has for its goodbye, before it ends without.
_GOODBYE = 1.3


@contextmanager
def _stopped_by_signals(follower: Follower, *, forced: int) -> Iterator[None]:
    """Stop the follower at SIGTERM or Ctrl-C, and end the process with the code `forced` if that takes too long.

    A connection that is being opened, or a transaction that waits for another one, may take half a minute. Nothing is
    lost: the broker delivers again what was not committed.
    """
    ended = threading.Event()

    def end() -> None:
        follower.stop()
        if not ended.wait(_GOODBYE):
            os._exit(forced)

    def stop(_number: int, _frame: Any) -> None:
        # A handler may interrupt the very lines that hold the lock it wants: another thread can wait for it,
        # and a second signal must not come in between.
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, signal.SIG_IGN)
        threading.Thread(target=end, daemon=True).start()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(status: FollowerStatus, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(status.document(), indent=2))
        return
    click.echo(f"{status.name}: {'following' if status.following else 'not running'}")
    if not status.vessels:
        click.echo("no vessel was ever heard")
    for vessel in status.vessels:
        _show_vessel(vessel)


def _show_vessel(vessel: FollowedVessel) -> None:
    if vessel.up_to_date:
        state = f"up to date at {vessel.seq}"
    else:
        state = f"at {vessel.seq} of {vessel.head_seq}, {vessel.lag} behind"
    link = {True: "online", False: "offline", None: "not heard of itself yet"}[vessel.online]
    click.echo(
        f"{vessel.vessel_id}: {state}; {link}, heard {(now_ms() - vessel.heard_at) // 1000} s ago"
    )
    for topic in vessel.topics:
        if topic.received is not None:
            click.echo(f"  {topic.topic}: catching up, {topic.received} of {topic.expected}")
        elif topic.wants:
            click.echo(f"  {topic.topic}: has asked for {topic.wants}")
    if vessel.held:
        click.echo(f"  {vessel.held} changes wait for rows that they refer to")
    rows = ", ".join(f"{count} {entity}" for entity, count in vessel.rows.items())
    click.echo(f"  {rows or 'no rows yet'}")
    if vessel.claimed:
        claimed = ", ".join(f"{count} {entity}" for entity, count in vessel.claimed.items())
        click.echo(f"  refused, since they belong to other vessels: {claimed}")
    if vessel.changed_at is not None:
        click.echo(f"  last change of {iso(vessel.changed_at)}")
