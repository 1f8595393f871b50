"""`flask sync backup` copies a SQLite database while it is in use, whole or not at all."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask

from arus.errors import BackupError
from arus.ops import backup
from arus.ops.backup import back_up
from tests.support.gunicorn_app import run_flask

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"])


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database of a few thousand pages in which the two sums are always equal."""
    path = tmp_path / "arus.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, n INTEGER, pad BLOB)")
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO account VALUES (?, 100, zeroblob(3000))", [(n,) for n in range(3_000)]
        )
        connection.execute("COMMIT")
    return path


@pytest.fixture
def writer(database: Path) -> Iterator[list[int]]:
    """Moves amounts between the first and the last page all the time; how often, as the only item."""
    enough, moved = threading.Event(), [0]

    def move() -> None:
        with closing(sqlite3.connect(database, isolation_level=None, timeout=30)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            while not enough.is_set():
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("UPDATE account SET n = n - 1 WHERE id = 0")
                connection.execute("UPDATE account SET n = n + 1 WHERE id = 2999")
                connection.execute("COMMIT")
                moved[0] += 1

    thread = threading.Thread(target=move)
    thread.start()
    yield moved
    enough.set()
    thread.join()


def test_a_copy_is_of_one_moment_though_others_write_all_the_time(
    database: Path, writer: list[int], tmp_path: Path
) -> None:
    target = tmp_path / "copies" / "ship.sqlite"
    target.parent.mkdir()
    before = writer[0]
    size = back_up(database, target)
    assert writer[0] > before, "nobody waited for it"
    assert size == target.stat().st_size
    assert list(target.parent.iterdir()) == [target], "one file holds everything"
    assert target.stat().st_mode == database.stat().st_mode
    with closing(sqlite3.connect(target)) as connection:
        assert connection.execute("SELECT count(*), sum(n) FROM account").fetchone() == (
            3_000,
            300_000,
        )
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_existing_file_is_never_replaced(database: Path, tmp_path: Path) -> None:
    target = tmp_path / "ship.sqlite"
    target.write_text("precious")
    link = tmp_path / "link.sqlite"
    link.symlink_to(tmp_path / "nowhere")
    for taken in (target, link, database):
        with pytest.raises(BackupError, match="exists already"):
            back_up(database, taken)
    assert target.read_text() == "precious"


def test_a_file_that_appears_meanwhile_is_not_replaced(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, copy = tmp_path / "ship.sqlite", backup._copy

    def copied(source: Path, unfinished: Path) -> None:
        copy(source, unfinished)
        target.write_text("precious")

    monkeypatch.setattr(backup, "_copy", copied)
    with pytest.raises(BackupError, match="exists already"):
        back_up(database, target)
    assert target.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arus.sqlite", "ship.sqlite"]


def test_a_file_system_without_hard_links_takes_a_copy(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_paths: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert back_up(database, tmp_path / "ship.sqlite") > 3_000 * 3_000


def test_a_damaged_database_is_not_a_backup(database: Path, tmp_path: Path) -> None:
    with database.open("r+b") as file:
        file.seek(40_000)
        file.write(os.urandom(20_000))
    with pytest.raises(BackupError, match=r"damaged|malformed"):
        back_up(database, tmp_path / "ship.sqlite")
    assert not (tmp_path / "ship.sqlite").exists()


def test_an_empty_database_is_not_a_backup(tmp_path: Path) -> None:
    """SQLite makes one where a wrong path is opened: whoever copied that would believe to have a backup."""
    (tmp_path / "arus.sqlite").touch()
    with pytest.raises(BackupError, match="has no tables"):
        back_up(tmp_path / "arus.sqlite", tmp_path / "ship.sqlite")
    assert not (tmp_path / "ship.sqlite").exists()


def test_ctrl_c_leaves_no_unfinished_copy(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = backup._copy

    def interrupted(source: Path, unfinished: Path) -> None:
        copy(source, unfinished)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(backup, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        back_up(database, tmp_path / "ship.sqlite")
    assert [path.name for path in tmp_path.iterdir()] == ["arus.sqlite"]


@pytest.mark.slow
@on_sqlite
def test_the_command_copies_the_database_of_the_settings(
    migrated_database_url: str, tmp_path: Path
) -> None:
    settings = {
        "DATABASE_URL": migrated_database_url,
        "SECRET_KEY": "for-tests-only-and-long-enough",
    }
    target = tmp_path / "ship.sqlite"
    done = run_flask("sync", "backup", str(target), settings=settings)
    assert (done.returncode, done.stdout.split()[1:]) == (0, ["MB", "copied", "to", str(target)])
    again = run_flask("sync", "backup", str(target), settings=settings)
    assert again.returncode == 1
    assert again.stderr == f"Error: {target} exists already; a backup never replaces a file\n"
    nowhere = run_flask("sync", "backup", str(tmp_path / "a" / "b"), settings=settings)
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (1, 1)
    assert "No such file or directory" in nowhere.stderr


def test_on_postgresql_the_command_names_pg_dump(make_app: Callable[..., Flask]) -> None:
    app = make_app("postgresql+psycopg://crew:secret@db.example/ship")
    done = app.test_cli_runner().invoke(args=["sync", "backup", "ship.dump"])
    assert done.exit_code == 1
    assert "pg_dump --format=custom --host=db.example --file=ship.dump ship" in done.output
    assert "secret" not in done.output
