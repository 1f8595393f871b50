"""`flask sync drill`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from arus.drill.findings import Findings, as_html, as_text
from arus.drill.link import SeaLink, parse_link
from arus.drill.rehearsal import Outcome, Plan, Rehearsal, copies
from arus.errors import DrillError, SettingError
from arus.runtime import Runtime, current
from arus.settings import SETTINGS, Broker

from .common import NumberRange, ended_by_sigterm, one_line, sync_commands
from .output import echo, echo_json

#: Changes an hour of a busy ship, where the log is too short to tell.
DEFAULT_RATE = 720.0
_BROKER = "MQTT_BROKER_URL"
_ALWAYS = "MQTT_SUPERSEDE=always"


@sync_commands.command("drill")
@click.option(
    "--hours",
    type=NumberRange(0.1, 8760),
    default=72.0,
    show_default=True,
    help="Of the outage.",
)
@click.option(
    "--changes-per-hour",
    "per_hour",
    type=NumberRange(0.01, 1e9),
    help="As many as the ship makes by its log, if it is not given.",
)
@click.option(
    "--link", "speed", default="64kbit", show_default=True, help="Speed of the link afterwards."
)
@click.option("--rtt", default="600ms", show_default=True, help="Round trip of that link.")
@click.option(
    "--broker",
    "url",
    metavar="URL",
    help="Drain to this broker, under topics of its own, instead of one in memory.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page to print to this file.",
)
def drill_command(
    hours: float,
    per_hour: float | None,
    speed: str,
    rtt: str,
    url: str | None,
    as_json: bool,
    page: Path | None,
) -> None:
    """Rehearse an outage on a copy of the database, and say what to set.

    The ship's own changes are repeated for so many hours at high speed, with a broker in memory that is away, and
    then comes back. The database, its owner and the broker of the ship are not touched; the copies are deleted.
    With --broker the backlog goes to that broker, below arus-drill/, and how long it took is measured; nothing is retained.

    \b
    Examples:
      flask sync drill --hours 72
      flask sync drill --hours 336 --link 128kbit --rtt 700ms
      flask sync drill --changes-per-hour 2000 --html drill.html
      flask sync drill --broker mqtts://shore.example:8883
    """  # noqa: D301  # a backspace tells click to keep the lines
    began = time.monotonic()
    sync = current()
    with one_line(), ended_by_sigterm(), _quiet():
        link = parse_link(speed, rtt)
        broker = None if url is None else _broker_of(url)
        findings = _rehearsed(sync, hours, per_hour, link, broker, began)
        if as_json:
            echo_json(json.dumps(findings.document(), indent=2))
        else:
            for line in as_text(findings).splitlines():
                echo(line)
        if page is not None:
            page.write_text(as_html(findings), encoding="utf-8")
            echo(f"written to {page}", err=as_json)


def _broker_of(url: str) -> Broker:
    try:
        found: Broker = SETTINGS[_BROKER].read({_BROKER: url})
    except SettingError as error:
        raise DrillError(str(error)) from None
    return found


def _rehearsed(
    sync: Runtime,
    hours: float,
    per_hour: float | None,
    link: SeaLink,
    broker: Broker | None,
    began: float,
) -> Findings:
    with copies() as directory:
        rehearsal = Rehearsal(sync, directory, broker)
        if per_hour is None and rehearsal.work.rate is None:
            echo(
                f"the log spans less than an hour: {DEFAULT_RATE:.0f} changes an hour are assumed (--changes-per-hour)",
                err=True,
            )
        plan = Plan(hours, per_hour or rehearsal.work.rate or DEFAULT_RATE)
        outcomes: list[Outcome] = [rehearsal.run(plan)]
        if not sync.settings.supersede_always:
            outcomes.append(rehearsal.run(plan, _ALWAYS, supersede=True))
        compressed = None if sync.settings.compresses else rehearsal.compressed
    took = time.monotonic() - began
    return Findings(plan, link, outcomes, compressed, sync.data_budget, took)


@contextmanager
def _quiet() -> Iterator[None]:
    """Let the relay of the drill log nothing: its broker is away on purpose."""
    log = logging.getLogger("arus")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
