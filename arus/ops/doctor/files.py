"""The check of the files: who may write them, and by how many names they are known."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Iterator
from pathlib import Path

from arus.database import database_file, has_other_names

from .finding import Finding, Verdict
from .vessel import Vessel

#: The files of a SQLite database, the lock of the owner, the counters of the rate limits and the reserve of disk space.
_BESIDE = ("", "-wal", "-shm", ".owner-lock", "-limits", ".reserve")


def check_files(vessel: Vessel) -> Iterator[Finding]:
    """Check that this user may write what the server writes."""
    url = vessel.engine.url
    places = {vessel.bell_path.parent}
    files: list[Path] = []
    database = database_file(url)
    if database is None and vessel.instance_path.is_dir():
        places.add(vessel.instance_path)  # what an application keeps there; many keep nothing
    elif database is not None:
        places.add(database.parent)
        files += [database.with_name(f"{database.name}{end}") for end in _BESIDE]
    files = [path for path in files if path.exists()]
    if database is not None and not database.parent.is_dir():
        yield Finding(
            "files",
            Verdict.FAIL,
            f"there is no folder {database.parent} for the database",
            f"mkdir -p {shlex.quote(str(database.parent))}, mount its disk, or correct DATABASE_URL",
        )
        return
    wrong = [path for path in sorted(places) if not os.access(path, os.W_OK | os.X_OK)]
    wrong += [path for path in files if not os.access(path, os.R_OK | os.W_OK)]
    if wrong:
        yield Finding(
            "files",
            Verdict.FAIL,
            f"{_user()} has no write access to {', '.join(map(str, wrong))}",
            "run as the user that runs the server, or give that user these files (chown)",
        )
        return
    foreign = [path for path in files if path.stat().st_uid != os.geteuid()]
    if foreign:
        yield Finding(
            "files",
            Verdict.WARN,
            f"{_user()} is not the owner of {', '.join(str(path) for path in foreign)}",
            "run this as the user that runs the server: files made by another may lock it out",
        )
        return
    if database is not None and has_other_names(database):
        yield Finding(
            "files",
            Verdict.WARN,
            f"{database} has hard links: a process that opens it by another name damages it",
            "find the other names (find -samefile) and remove them, or make them symbolic links",
        )
        return
    yield Finding("files", Verdict.OK, f"{_user()} has write access to all files")


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
