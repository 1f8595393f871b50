"""`flask sync doctor`."""

from __future__ import annotations

import os
from pathlib import Path

import click
import orjson

from arus.doctor import Finding, Verdict, Vessel, examine
from arus.ownership import open_lock
from arus.schema import define

from .common import one_line, state, sync_commands

_COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@sync_commands.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def doctor_command(as_json: bool) -> None:
    """Look at settings, database, broker, clock and disk, and say how to mend what is not well.

    Changes nothing and disturbs no live server. Ends with 1 where something does not work.

    \b
    Examples:
      flask --app wsgi sync doctor
      flask --app wsgi sync doctor --json
    """  # noqa: D301  # a backspace tells click to keep the lines
    found: list[Finding] = []
    with one_line():
        for finding in examine(_vessel()):
            found.append(finding)
            if not as_json:
                _print(finding)
    failures, warnings = (
        sum(finding.verdict is verdict for finding in found)
        for verdict in (Verdict.FAIL, Verdict.WARN)
    )
    if as_json:
        worst = Verdict.FAIL if failures else Verdict.WARN if warnings else Verdict.OK
        document = {"verdict": worst, "checks": [finding.document() for finding in found]}
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    elif failures or warnings:
        click.echo(f"{failures} failed, {warnings} to look at")
    else:
        click.echo("all is well")
    if failures:
        raise click.exceptions.Exit(1)


def _vessel() -> Vessel:
    sync = state()
    engine = sync.db.engine
    migrations = getattr(sync.app.extensions.get("migrate"), "directory", None)
    return Vessel(
        settings=sync.settings,
        engine=engine,
        tables=define(sync.db.metadata),
        is_owned=sync.lock.is_held,
        bell_path=open_lock(engine.url)[1],
        instance_path=Path(sync.app.instance_path),
        migrations=Path(migrations) if migrations else None,
        environment=os.environ,
    )


def _print(finding: Finding) -> None:
    verdict = click.style(f"{finding.verdict:<5}", fg=_COLOURS[finding.verdict])
    click.echo(f"{verdict} {finding.name:<18} {finding.says}")
    if finding.fix and finding.verdict is not Verdict.OK:
        click.echo(f"{'':<24} -> {finding.fix}")
