"""Reconciliation: what was written past the capture is logged, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm.exc import StaleDataError

from arus.database import open_engine
from arus.errors import CaptureError
from arus.outbox import reconciliation
from tests.support.small_app import (
    Hull,
    Part,
    db,
    log,
    new_id,
    replayed,
    small_app,
    sync,
    tables,
)


@pytest.fixture
def app(small_database_url: str) -> Iterator[Flask]:
    with small_app(small_database_url) as app:
        yield app
        db.session.remove()


def past_the_capture(*statements: str) -> None:
    """As another program would write: on an engine that the capture does not know."""
    engine = open_engine(db.engine.url)
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()


def added(*names: str) -> list[Hull]:
    hulls = [Hull(id=name, name=name) for name in names]
    db.session.add_all(hulls)
    db.session.commit()
    return hulls


def test_what_differs_is_logged_and_nothing_else(app: Flask) -> None:
    added("a", "b", "c", "d")
    db.session.add(Part(name="anchor", hull_id="a"))
    db.session.commit()
    before = log()
    hulls, parts = sync.reconcile()
    assert (hulls.rows, hulls.logged, parts.rows, parts.logged) == (4, 0, 1, 0)
    assert log() == before
    past_the_capture(
        "UPDATE hull SET name = 'changed' WHERE id = 'a'",
        "UPDATE hull SET name = 'raised', version = 7 WHERE id = 'b'",
        "DELETE FROM hull WHERE id = 'c'",
        "INSERT INTO hull (id, name, version) VALUES ('e', 'new', 1)",
    )
    found = sync.reconcile("hulls")[0]
    assert (found.created, found.updated, found.deleted, found.forgotten) == (1, 2, 1, 0)
    assert replayed(log()) == tables()
    assert sorted((e.operation, e.row_id, e.version) for e in log()[len(before) :]) == [
        ("create", "e", 1),
        ("delete", "c", 2),
        ("update", "a", 2),
        ("update", "b", 7),
    ]
    assert sync.reconcile("hulls")[0].logged == 0, "a second time there is nothing to do"


def test_a_row_that_exists_again_gets_a_version_above_its_deletion(app: Flask) -> None:
    (hull,) = added("a")
    hull.name = "b"
    db.session.commit()
    db.session.delete(hull)
    db.session.commit()
    past_the_capture("INSERT INTO hull (id, name, version) VALUES ('a', 'again', 1)")
    assert sync.reconcile("hulls")[0].created == 1
    last = log()[-1]
    assert (last.operation, last.version, last.data["version"]) == ("create", 4, 4)


def test_a_large_table_is_compared_in_chunks(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliation, "CHUNK", 3)
    added(*(f"{number:02}" for number in range(10)))
    past_the_capture("UPDATE hull SET name = 'x'", "DELETE FROM hull WHERE id > '04'")
    found = sync.reconcile("hulls")[0]
    assert (found.rows, found.updated, found.deleted) == (5, 5, 5)
    assert replayed(log()) == tables()


def test_rows_that_the_log_has_forgotten_are_counted_or_logged(app: Flask) -> None:
    added("a", "b", "c")
    past_the_capture(
        "DELETE FROM arus_change WHERE row_id <> 'c'",
        "INSERT INTO arus_session (id, epoch, vessel_id, pruned_seq) VALUES (1, 'e', 'v', 2)",
        "UPDATE hull SET name = 'x' WHERE id IN ('b', 'c')",
    )
    found = sync.reconcile("hulls")[0]
    assert (found.created, found.updated, found.forgotten) == (0, 1, 2)
    found = sync.reconcile("hulls", forgotten=True)[0]
    assert (found.created, found.updated, found.forgotten) == (2, 0, 0)
    assert {(e.row_id, e.version) for e in log()} == {("a", 2), ("b", 2), ("c", 1), ("c", 2)}


def test_rows_older_than_the_log_are_logged(app: Flask) -> None:
    past_the_capture("INSERT INTO hull (id, name, version) VALUES ('a', 'old', 5)")
    assert sync.reconcile()[0].created == 1
    assert replayed(log()) == tables()


def test_a_row_that_cannot_be_serialised_is_logged_once(app: Flask) -> None:
    added("a", "unserialisable")
    assert sync.reconcile()[0].logged == 0
    past_the_capture("UPDATE hull SET name = 'fine' WHERE name = 'unserialisable'")
    assert sync.reconcile()[0].updated == 1
    assert (log()[-1].outcome, log()[-1].data["name"]) == (None, "fine")


def rename(key: str) -> None:
    try:
        db.session.get_one(Hull, key, populate_existing=True).name = "live"
        db.session.commit()
    except (
        StaleDataError
    ):  # the reconciliation has raised the version: as with any other writer, try again
        db.session.rollback()
        rename(key)


@pytest.mark.slow
def test_a_live_application_goes_on_writing_meanwhile(app: Flask) -> None:
    keys = [f"{number:03}" for number in range(60)]
    added(*keys)
    past_the_capture("UPDATE hull SET tag = 'past'")
    failed: list[BaseException] = []

    def write() -> None:
        try:
            with app.app_context():
                for key in keys:
                    rename(key)
                    db.session.add(Hull(id=new_id(), name="live"))
                    db.session.commit()
        except BaseException as error:  # noqa: BLE001  # told to the test's thread
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        sync.reconcile("hulls")
    writer.join()
    sync.reconcile("hulls")
    assert not failed
    assert replayed(log()) == tables()


def test_the_command_says_what_it_did(app: Flask) -> None:
    added("a")
    past_the_capture("DELETE FROM hull")
    run = app.test_cli_runner().invoke
    done = run(args=["sync", "reconcile", "hulls"])
    assert done.exit_code == 0
    assert done.output == (
        "hulls: logged 0 created, 0 changed and 1 deleted rows; 0 rows in the table\n"
    )
    done = run(args=["sync", "reconcile"])
    assert done.output == (
        "hulls: nothing to log; 0 rows in the table\nparts: nothing to log; 0 rows in the table\n"
    )
    assert run(args=["sync", "reconcile", "boats"]).exit_code == 1


def test_ashore_there_is_nothing_to_reconcile(small_database_url: str) -> None:
    with (
        small_app(small_database_url, LOCAL_MODE="false"),
        pytest.raises(CaptureError, match="LOCAL_MODE is false"),
    ):
        sync.reconcile()
