"""`flask sync report`."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import click

from arus.ops.record import Record, read_record
from arus.ops.record_file import Local, as_csv, as_html, as_text
from arus.protocol.requests import parse_since
from arus.protocol.times import now_ms
from arus.runtime import current

from .common import one_line, sync_commands
from .output import echo, echo_json

FORMATS = ("text", "csv", "html", "json")


@sync_commands.command("report")
@click.option(
    "--since", default="30d", show_default=True, help="Begin: a time, or how long ago (12h, 30d)."
)
@click.option("--until", default=None, help="End: likewise; now if it is not given.")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="Form."
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file."
)
def report_command(
    since: str, until: str | None, form: str, as_json: bool, output: Path | None
) -> None:
    """Print the ship's record: outages, changes delivered, delayed and dropped, repairs, audits, data sent.

    Outages are kept for 31 days, the figures of days for 92. It works beside a running server, and without one.

    \b
    Examples:
      flask sync report --since 30d
      flask sync report --since 2026-11-01 --until 2026-12-01 --format html --output november.html
      flask sync report --since 90d --format csv
    """  # noqa: D301  # a backspace tells click to keep the lines
    begin, end = _time("--since", since), now_ms() if until is None else _time("--until", until)
    if begin >= end:
        raise click.UsageError("--since must be before --until")
    sync = current()
    with one_line():
        with sync.engine.connect() as connection:
            record = read_record(connection, sync.data_budget, begin, end)
        written = _written(record, "json" if as_json else form, sync.data_budget.local)
        if output is not None:
            output.write_text(written + "\n", encoding="utf-8")
            echo(f"written to {output}")
        elif as_json or form == "json":
            echo_json(written)
        else:
            for line in written.splitlines():
                echo(line)


def _time(option: str, given: str) -> int:
    try:
        moment: datetime = parse_since(given)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from error
    return round(moment.timestamp() * 1000)


def _written(record: Record, form: str, local: Local) -> str:
    match form:
        case "csv":
            return as_csv(record).rstrip("\r\n")
        case "html":
            return as_html(record, local)
        case "json":
            return json.dumps(record.document(), indent=2)
    return as_text(record, local)
