"""The check of the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from arus.database import database_file
from arus.outbox.reserve import is_full, kept

from .finding import Finding, Verdict
from .vessel import Vessel

_MEGABYTE = 1024 * 1024
#: Free bytes below which a disk is nearly full, or full in practice.
LITTLE_SPACE = 500 * _MEGABYTE
NO_SPACE = 50 * _MEGABYTE


def check_disk(vessel: Vessel) -> Iterator[Finding]:
    """Check the free space beside a SQLite database."""
    database = database_file(vessel.engine.url)
    if database is None or not database.parent.is_dir():
        return  # the disk of a database server is not visible from here
    free = shutil.disk_usage(database.parent).free
    size = sum(
        path.stat().st_size
        for end in ("", "-wal")
        if (path := database.with_name(database.name + end)).exists()
    )
    says = f"{free // _MEGABYTE} MB free in {database.parent}; the database uses {size / _MEGABYTE:.1f} MB"
    fix = "free some space, or move the database to a larger disk"
    if (full := explain_full_disk(database)) is not None:
        yield Finding("disk", Verdict.FAIL, *full)
    elif free < NO_SPACE:
        yield Finding("disk", Verdict.FAIL, says, fix)
    elif free < LITTLE_SPACE:
        yield Finding("disk", Verdict.WARN, says, fix)
    else:
        yield Finding("disk", Verdict.OK, says)


def explain_full_disk(database: Path) -> tuple[str, str] | None:
    """Return what is wrong with the disk of a SQLite database, and how to fix it; None if it has room."""
    if not is_full(database):
        return None
    says = f"the disk of {database.parent} is full: the application's writes fail"
    if reserved := kept(database):
        says += (
            f"; what was accepted is still delivered, with {reserved / _MEGABYTE:.1f} MB in reserve"
        )
    else:
        says += ", and what the broker acknowledges can't be recorded, so that nothing is delivered"
    return says, f"make room in {database.parent}; the sync continues by itself"
