"""`flask sync doctor`."""

from __future__ import annotations

import os
from pathlib import Path

import click
import orjson
from msgspec.structs import replace

from arus.ops.doctor import Finding, Verdict, Vessel, examine
from arus.outbox.tables import define
from arus.runtime import current

from .common import as_given, one_line, sync_commands
from .output import echo, echo_json

_COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@sync_commands.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def doctor_command(as_json: bool) -> None:
    """Check settings, database, broker, clock and disk, and say how to fix each problem.

    Changes nothing and does not disturb a live server. Exits with code 1 if something does not work.

    \b
    Examples:
      flask sync doctor
      flask sync doctor --json
    """  # noqa: D301  # a backspace tells click to keep the lines
    found: list[Finding] = []
    with one_line():
        for examined in examine(_vessel()):
            finding = replace(examined, fix=examined.fix and as_given(examined.fix))
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
        echo_json(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    elif failures or warnings:
        echo(f"{failures} failed, {warnings} to check")
    else:
        echo("no problems found")
    if failures:
        raise click.exceptions.Exit(1)


def _vessel() -> Vessel:
    sync = current()
    # The socket has a directory of its own, which the first owner makes.
    directory = sync.bell_path.parent
    migrations = getattr(sync.app.extensions.get("migrate"), "directory", None)
    return Vessel(
        settings=sync.settings,
        engine=sync.engine,
        tables=define(sync.db.metadata),
        is_owned=sync.lock.is_held,
        bell_path=sync.bell_path if directory.exists() else directory,
        instance_path=Path(sync.app.instance_path),
        migrations=Path(migrations) if migrations else None,
        environment=os.environ,
    )


def _print(finding: Finding) -> None:
    verdict = click.style(f"{finding.verdict:<5}", fg=_COLOURS[finding.verdict])
    echo(f" {finding.name:<18} {finding.says}", styled=verdict)
    if finding.fix and finding.verdict is not Verdict.OK:
        echo(f"{'':<24} -> {finding.fix}")
