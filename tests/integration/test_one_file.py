"""After a clean stop one file holds everything: SQLite's write-ahead log is emptied by the last process to leave."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import make_url

from arus.database import flush_wal
from tests.support.gunicorn_app import ROOT, GunicornApp, clean_environment

ROWS = "SELECT count(*) FROM crew"
on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"])


def rows_in_a_copy(database: Path, query: str = ROWS) -> int:
    """The rows that a copy of the one file has."""
    copy = shutil.copy(database, database.with_name("copy.sqlite"))
    with closing(sqlite3.connect(copy)) as connection:
        return int(connection.execute(query).fetchone()[0])


@pytest.mark.slow
@on_sqlite
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_stopped_leaves_one_file(
    start_app: Callable[..., GunicornApp], tmp_path: Path, number: signal.Signals
) -> None:
    app = start_app(workers=2)
    app.wait_connected()
    for n in range(6):
        app.post("/api/crew", {"name": f"Maria {n}"})
    assert app._child is not None
    app._child.send(number)
    assert app.wait() == 0
    assert rows_in_a_copy(tmp_path / "arus.sqlite") == 6


@pytest.mark.slow
@on_sqlite
def test_a_script_that_starts_no_relay_leaves_one_file(
    migrated_database_url: str, tmp_path: Path
) -> None:
    """Its connection stays open until the process has ended."""
    script = (
        "from app import create_app; from extensions import db\n"
        "from blueprints.crew.models import CrewMember\n"
        "app = create_app(); app.app_context().push()\n"
        "db.session.add(CrewMember(name='Maria')); db.session.commit(); kept = db.engine.connect()\n"
    )
    environment = clean_environment(
        DATABASE_URL=migrated_database_url, LOCAL_MODE="true", SECRET_KEY="x" * 20
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True)
    assert rows_in_a_copy(tmp_path / "arus.sqlite") == 1


def leave(database: Path, number: int, together: multiprocessing.synchronize.Barrier) -> None:
    connection = sqlite3.connect(database, timeout=30)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    together.wait()
    connection.execute("INSERT INTO row VALUES (?)", [number])
    connection.commit()
    flush_wal(make_url(f"sqlite:///{database}"))
    together.wait()  # nobody closes before all have left


def test_processes_that_leave_at_the_same_time_leave_one_file(tmp_path: Path) -> None:
    database = tmp_path / "arus.sqlite"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE row (n INTEGER)")
    context = multiprocessing.get_context("fork")
    together = context.Barrier(4)
    leaving = [context.Process(target=leave, args=(database, n, together)) for n in range(4)]
    for process in leaving:
        process.start()
    for process in leaving:
        process.join(30)
        assert process.exitcode == 0
    assert rows_in_a_copy(database, "SELECT count(*) FROM row") == 4


def test_a_database_that_somebody_reads_is_left_to_them(tmp_path: Path) -> None:
    database = tmp_path / "arus.sqlite"
    with (
        closing(sqlite3.connect(database, isolation_level=None)) as writer,
        closing(sqlite3.connect(database, isolation_level=None)) as reader,
    ):
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE row (n INTEGER)")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM row").fetchall()
        writer.execute("INSERT INTO row VALUES (1)")
        flush_wal(make_url(f"sqlite:///{database}"))
        reader.execute("COMMIT")
        flush_wal(make_url(f"sqlite:///{database}"))
        assert rows_in_a_copy(database, "SELECT count(*) FROM row") == 1


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    flush_wal(make_url(f"sqlite:///{tmp_path}/arus.sqlite"))
    assert list(tmp_path.iterdir()) == []
