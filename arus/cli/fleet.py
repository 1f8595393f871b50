"""`flask sync fleet`."""

from __future__ import annotations

import json

import click

from arus.follower.fleet import FleetState, FleetVessel
from arus.follower.fleet_query import MAX_LIMIT, MAX_SEARCH, FleetQuery
from arus.protocol.times import iso, now_ms
from arus.runtime import current

from .common import as_given, one_line, sync_commands
from .output import echo, echo_json

_WORDS = {True: "online", False: "offline", None: "no status yet"}


@sync_commands.command("fleet")
@click.option("--search", "q", default="", help="Only vessels whose id contains this text.")
@click.option("--online/--offline", default=None, help="Only vessels that are, or are not, online.")
@click.option("--behind", is_flag=True, help="Only vessels whose changes are not all applied here.")
@click.option("--differs", is_flag=True, help="Only vessels whose last audit found a difference.")
@click.option(
    "--refused", is_flag=True, help="Only vessels with rows that can't be read or written here."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def fleet_command(q: str, online: bool | None, as_json: bool, **flags: bool) -> None:
    """List the vessels that are followed here, ashore.

    \b
    Examples:
      flask sync fleet
      flask sync fleet --offline --behind
      flask sync fleet --json
    """  # noqa: D301  # a backspace tells click to keep the lines
    if len(q) > MAX_SEARCH or "\0" in q:
        raise click.UsageError(f"--search takes up to {MAX_SEARCH} characters")
    query = FleetQuery(q, _filters(online, **flags), limit=MAX_LIMIT)
    fleet = current().fleet
    with one_line():
        if as_json:
            items = [vessel.document() for vessel in fleet.every(query)]
            echo_json(json.dumps({"items": items, "next": None}, indent=2))
            return
        state = fleet.state()
        _print_state(state)
        if not state.summary.vessels:
            echo(as_given("no vessel is known yet; start: flask sync follow --name shore"))
        now = now_ms()
        for vessel in fleet.every(query):
            echo(_line(vessel, now))


def _filters(online: bool | None, *, behind: bool, differs: bool, refused: bool) -> dict[str, bool]:
    filters: dict[str, bool] = {}
    if online is not None:
        filters["online"] = online
    if behind:
        filters["behind"] = True
    if differs:
        filters |= {"audited": True, "equal": False}
    if refused:
        filters["refused"] = True
    return filters


def _print_state(state: FleetState) -> None:
    summary = state.summary
    if not state.following:
        echo("not followed now: no process runs flask sync follow on this database")
    elif not state.connected:
        reasons = [link.reason for link in state.links.values() if link.reason]
        echo(f"not connected: {reasons[0] if reasons else 'no connection yet'}")
    else:
        for obstacle in state.obstacles:
            echo(obstacle)
    echo(
        f"{summary.vessels} vessels: {summary.online} online, {summary.behind} behind, {summary.equal} equal,"
        f" {summary.differs} differ, {summary.refusing} with refused rows, {summary.holding} with held changes"
    )


def _line(vessel: FleetVessel, now: int) -> str:
    parts = [_online(vessel)]
    if vessel.last_heard is not None:
        parts.append(f"last heard {iso(vessel.last_heard)}")
    if vessel.behind:
        since = (
            "" if vessel.behind_since is None else f" for {(now - vessel.behind_since) // 1000} s"
        )
        parts.append(f"{vessel.behind} behind{since}")
    else:
        parts.append(f"up to date at {vessel.seq}")
    parts.append(_audited(vessel))
    if vessel.refused:
        parts.append(f"{vessel.refused} rows refused")
    if vessel.held:
        parts.append(f"{vessel.held} changes held")
    if vessel.fields_differ:
        parts.append("tables with other fields than here")
    return f"{vessel.vessel_id}: {'; '.join(parts)}"


def _online(vessel: FleetVessel) -> str:
    word = _WORDS[vessel.online]
    return word if vessel.since is None else f"{word} since {iso(vessel.since)}"


def _audited(vessel: FleetVessel) -> str:
    if vessel.audited_at is None:
        return "not audited yet"
    if vessel.audit == "equal":
        return f"equal at {iso(vessel.audited_at)}"
    before = "never equal" if vessel.equal_at is None else f"last equal {iso(vessel.equal_at)}"
    return f"differs at {iso(vessel.audited_at)} ({before})"
