"""`make release`: builds what is published, and checks it as a stranger would.

1. The version in `arus/__init__.py` is the one that CHANGELOG.md and README.md name, and everything is committed.
2. Source distribution and wheel, the wheel from the unpacked source distribution, in `dist/`.
3. twine reads both as an index does.
4. The wheel is installed in an empty environment, where an application with it starts and its commands work.

Nothing is published or tagged.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import arus

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
EMPTY: Mapping[str, str] = MappingProxyType({})

#: An application of one table, as a user's.
_APPLICATION = """\
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from arus import ReliableSync

db, sync = SQLAlchemy(), ReliableSync()


class Valve(db.Model):
    id = db.Column(db.String(36), primary_key=True)


sync.register(Valve, "valves", topic="valves", qos=1, schema=Schema.from_dict({"id": fields.Str()}))


def create_app():
    app = Flask(__name__)
    app.config.from_mapping(SQLALCHEMY_DATABASE_URI="sqlite:///plant.db", LOCAL_MODE=True)
    db.init_app(app)
    sync.init_app(app, db)
    app.cli.command("init-db")(db.create_all)
    return app
"""


class ReleaseError(Exception):
    """Something is not ready to be released."""


def run(*words: str | Path, directory: Path = ROOT, environment: Mapping[str, str] = EMPTY) -> str:
    """Return what a program prints.

    :raises ReleaseError: it fails.
    """
    done = subprocess.run(
        words,
        cwd=directory,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ReleaseError(f"{' '.join(map(str, words))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def unready(root: Path = ROOT, version: str = arus.__version__) -> Iterator[str]:
    """Yield what is still to be done before `version` can be released, one line each."""
    changelog = (root / "CHANGELOG.md").read_text("utf-8")
    if not re.search(
        rf"^## \[?{re.escape(version)}\]? - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE
    ):
        yield f"CHANGELOG.md has no section `## {version} - YYYY-MM-DD`"
    if re.search(r"^## Unreleased\n+(?!\n*## )\S", changelog, re.MULTILINE):
        yield "CHANGELOG.md has changes under Unreleased: they belong to this version or to none"
    readme = (root / "README.md").read_text("utf-8")
    named = set(re.findall(r"arus-(\d[\w.]*?)-py3-none-any\.whl", readme))
    if named != {version}:
        yield f"README.md names the wheel of version {', '.join(sorted(named)) or 'none'}"
    if run("git", "status", "--porcelain", directory=root):
        yield "something is not committed"


def build(
    source: Path, directory: Path, environment: Mapping[str, str] = EMPTY
) -> tuple[Path, Path]:
    """Build source distribution and, from it, the wheel; return both, checked by twine.

    :raises ReleaseError: one can't be built, or an index would not take it.
    """
    run(
        *(sys.executable, "-m", "uv", "build", "--no-progress", "--quiet"),
        *("--python", sys.executable, "--out-dir", directory, source),
        environment=environment,
    )
    sources = directory / f"arus-{arus.__version__}.tar.gz"
    wheel = directory / f"arus-{arus.__version__}-py3-none-any.whl"
    run(sys.executable, "-m", "twine", "check", "--strict", sources, wheel)
    return sources, wheel


def check_out(directory: Path) -> None:
    """Write what is committed into a directory: what lies around here must not get into a release."""
    archive = directory.with_suffix(".tar")
    run("git", "archive", f"--output={archive}", "HEAD")
    with tarfile.open(archive) as packed:
        packed.extractall(directory, filter="data")


def try_out(wheel: Path, directory: Path) -> None:
    """Install a wheel in an empty environment, and use it there.

    :raises ReleaseError: it can't be installed or does not work.
    """
    venv.create(directory / ".venv", with_pip=True)
    programs = directory / ".venv" / "bin"
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input")
    run(programs / "python", *pip, wheel, directory=directory)
    (directory / "plant.py").write_text(_APPLICATION)
    clean = {"PYTHONPATH": "", "VIRTUAL_ENV": ""}
    told = run(
        *(programs / "python", "-c", "import arus; print(arus.__version__, arus.__file__)"),
        directory=directory,
        environment=clean,
    )
    version, place = told.split()
    if version != arus.__version__ or not Path(place).is_relative_to(directory):
        raise ReleaseError(f"the wheel is of version {version}, at {place}")
    flask = (programs / "flask", "--app", "plant")
    run(*flask, "init-db", directory=directory, environment=clean)
    status = run(*flask, "sync", "status", directory=directory, environment=clean)
    if "queue" not in status:
        raise ReleaseError(f"`flask sync status` says:\n{status}")


def main() -> int:
    """Make a release in `dist/`; return 1 if it is not ready."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__)
    parser.add_argument(
        "--rehearse", action="store_true", help="also when something is still to be done"
    )
    arguments = parser.parse_args()
    open_points = list(unready())
    for point in open_points:
        print(f"not ready: {point}", flush=True)
    if open_points and not arguments.rehearse:
        return 1
    try:
        with tempfile.TemporaryDirectory(prefix="arus-release-") as place:
            source, empty = Path(place, "source"), Path(place, "empty")
            print(f"building arus {arus.__version__}", flush=True)
            check_out(source)
            shutil.rmtree(DIST, ignore_errors=True)
            made = build(source, DIST)
            print("installing the wheel in an empty environment", flush=True)
            empty.mkdir()
            try_out(made[1], empty)
    except ReleaseError as error:
        print(f"error: {error}")
        return 1
    for path in made:
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(ROOT)}")
    if open_points:
        print("rehearsed: not ready, see above")
        return 1
    print(f"ready: git tag v{arus.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
