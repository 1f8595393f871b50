"""`flask sync follow`."""

from __future__ import annotations

import json

import click
from flask import current_app

from arus.follower.admission import not_followed
from arus.follower.audits.fields import told_difference
from arus.follower.follower import Follower
from arus.follower.partitions.placement import MAX_PARTITIONS
from arus.follower.partitions.report import counted, numbers, sharers
from arus.follower.report import FollowedVessel, FollowerStatus
from arus.protocol.times import iso, now_ms

from .common import TIMEOUT, one_line, stopped_by_signals, sync_commands, visible_log
from .output import echo, echo_json


@sync_commands.command("follow")
@click.option(
    "--name",
    default="shore",
    show_default=True,
    help="The name under which vessels know this follower; never change it.",
)
@click.option("--once", is_flag=True, help="Catch up with all vessels, then exit.")
@click.option(
    "--timeout",
    type=TIMEOUT,
    help="With --once: seconds to wait at most, also while another process follows.",
)
@click.option(
    "--partitions",
    type=click.IntRange(1, MAX_PARTITIONS),
    help="Divide the vessels into so many partitions, which several processes share (PostgreSQL only).",
)
@click.option("--status", "show", is_flag=True, help="Show the follower's progress, then exit.")
@click.option("--json", "as_json", is_flag=True, help="With --status: print JSON for programs.")
def follow_command(
    name: str,
    once: bool,
    timeout: float | None,
    partitions: int | None,
    show: bool,
    as_json: bool,
) -> None:
    """Keep a copy of the vessels' tables in this application's database.

    Runs ashore (LOCAL_MODE=false), with the broker of the MQTT settings. SIGTERM or Ctrl-C stops it;
    when started again, it continues where it stopped.

    \b
    Examples:
      flask sync follow --name shore
      flask sync follow --name shore --once --timeout 300
      flask sync follow --name shore --partitions 64
      flask sync follow --name shore --status --json
    """  # noqa: D301  # a backspace tells click to keep the lines
    if as_json and not show:
        raise click.UsageError("--json goes with --status")
    if timeout is not None and not once:
        raise click.UsageError("--timeout goes with --once")
    if partitions is not None and once:
        raise click.UsageError("--partitions follows until it is stopped: without --once")
    with one_line():
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        follower = Follower(app, name, partitions=None if show else partitions)
        if show:
            _show(follower.status(), as_json=as_json)
            return
        with visible_log(), stopped_by_signals(follower.stop, forced=1 if once else 0):
            level = follower.run(once=once, timeout=timeout)
    if once:
        _show(follower.status(), as_json=False)
        if not level:
            raise click.ClickException("not caught up with all vessels")


def _show(status: FollowerStatus, *, as_json: bool) -> None:
    if as_json:
        echo_json(json.dumps(status.document(), indent=2))
        return
    echo(f"{status.name}: {'following' if status.following else 'not running'}")
    echo(f"topics: {status.scope}")
    if status.reason is not None:
        echo(status.reason if status.connected else f"not connected: {status.reason}")
    if status.refused:
        echo(not_followed(status.refused))
    _show_partitions(status)
    if not status.vessels:
        echo("no vessel is known yet")
    for vessel in status.vessels:
        _show_vessel(vessel)


def _show_partitions(status: FollowerStatus) -> None:
    if not status.partitions:
        return
    echo(counted(status.partitions))
    for one in sharers(status.partitions):
        since = iso(max(part.since or 0 for part in one.partitions))
        vessels = sum(part.vessels for part in one.partitions)
        echo(
            f"  process {one.pid} on {one.host}: {len(one.partitions)} partitions ({one.numbers}) with {vessels}"
            f" vessels, the last one taken at {since}"
        )
    if free := [part.number for part in status.partitions if not part.held]:
        echo(f"  held by no process: {numbers(free)}")
    found = {(part.is_connected, part.reason) for part in status.partitions if part.reason}
    for is_connected, reason in sorted(found):
        these = numbers(part.number for part in status.partitions if part.reason == reason)
        echo(f"  {'connected' if is_connected else 'not connected'} ({these}): {reason}")


def _state_of(vessel: FollowedVessel) -> str:
    if not vessel.followed:
        return f"not in FOLLOW_VESSELS, at {vessel.seq}"
    if vessel.up_to_date:
        return f"up to date at {vessel.seq}"
    return f"at {vessel.seq} of {vessel.head_seq}, {vessel.lag} behind"


def _show_vessel(vessel: FollowedVessel) -> None:
    link = {True: "online", False: "offline", None: "status not received yet"}[vessel.online]
    echo(
        f"{vessel.vessel_id}: {_state_of(vessel)}; {link}, last message {(now_ms() - vessel.heard_at) // 1000} s ago"
    )
    _show_topics(vessel)
    if vessel.ahead_of is not None:
        echo(
            f"  ahead of the vessel, which reports {vessel.ahead_of} as its last number: was it restored from an"
            " older copy?"
        )
    if vessel.held:
        echo(f"  {vessel.held} changes held until the rows that they refer to arrive")
    if vessel.refused:
        echo(f"  {vessel.refused} rows refused: flask sync inbox list says why")
    _show_rows(vessel)
    if vessel.changed_at is not None:
        echo(f"  last change committed at {iso(vessel.changed_at)}")


def _show_topics(vessel: FollowedVessel) -> None:
    for topic in vessel.topics:
        if topic.received is not None:
            echo(f"  {topic.topic}: catching up, {topic.received} of {topic.expected}")
        elif topic.wants:
            echo(f"  {topic.topic}: has requested {topic.wants}")
        if topic.unswept:
            why = (
                "a digest does not agree" if topic.disputed else "waiting for a digest that agrees"
            )
            echo(f"  {topic.topic}: {topic.unswept} rows are not deleted yet: {why}")


def _show_rows(vessel: FollowedVessel) -> None:
    rows = ", ".join(f"{count} {entity}" for entity, count in vessel.rows.items())
    echo(f"  {rows or 'no rows yet'}")
    if vessel.claimed:
        claimed = ", ".join(f"{count} {entity}" for entity, count in vessel.claimed.items())
        echo(f"  refused because they belong to other vessels: {claimed}")
    for claim in vessel.claims:
        echo(f"  {claim.says}; fix: {claim.fix}")
    for entity, difference in vessel.differences.items():
        echo(f"  {entity}: {told_difference(difference)}")
