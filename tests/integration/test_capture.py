"""Capture: what a transaction has changed is in the log exactly when the transaction is in the database."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import delete, event, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import ORMExecuteState

from arus.errors import CaptureError
from arus.outbox.counters import FAILURES, read_counters
from tests.support.small_app import (
    Hull,
    Logged,
    Memo,
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
        if not any(entry.outcome for entry in log()) and not app.config.get("LOG_WAS_GONE"):
            assert replayed(log()) == tables(), "who follows the log has the tables"


def short(entries: list[Logged]) -> list[tuple[str, str | None, int]]:
    return [(e.operation, e.data.get("name"), e.version) for e in entries]


def added(*names: str) -> list[Hull]:
    hulls = [Hull(name=name) for name in names]
    db.session.add_all(hulls)
    db.session.commit()
    return hulls


# -- single changes -----------------------------------------------------------------------------


def test_create_update_and_delete_are_three_entries(app: Flask) -> None:
    (hull,) = added("a")
    hull.name = "b"
    db.session.commit()
    db.session.delete(hull)
    db.session.commit()
    assert short(log()) == [("create", "a", 1), ("update", "b", 2), ("delete", "b", 3)]
    assert {e.row_id for e in log()} == {hull.id}
    assert log()[0].data["tag"] == "untagged", "what the server gave is in it"


def test_entries_carry_the_registrations_topic_and_qos(app: Flask) -> None:
    db.session.add(Part(hull=Hull()))
    db.session.commit()
    with db.engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT entity, topic, qos, seq FROM arus_change"))
        assert sorted(map(tuple, rows)) == [
            ("hulls", "hulls", 1, None),
            ("parts", "deck/parts", 2, None),
        ]


def test_an_update_without_a_net_change_is_no_entry(app: Flask) -> None:
    (hull,) = added("a")
    hull.name = "b"
    hull.name = "a"
    db.session.commit()
    hull.parts = []
    db.session.commit()
    assert len(log()) == 1


def test_a_change_of_a_collection_alone_is_an_entry_of_the_other_side(app: Flask) -> None:
    (hull,) = added("a")
    hull.parts.append(Part(name="anchor"))
    db.session.commit()
    assert [(e.entity, e.operation) for e in log()] == [("hulls", "create"), ("parts", "create")]


def test_an_unregistered_model_is_no_entry(app: Flask) -> None:
    db.session.add(Memo())
    db.session.commit()
    db.session.execute(update(Memo).values(id="x"))
    db.session.commit()
    assert log() == []


def test_orphans_and_cascades_are_entries(app: Flask) -> None:
    hull = Hull(name="a", parts=[Part(name="anchor"), Part(name="bell")])
    db.session.add(hull)
    db.session.commit()
    hull.parts.pop(0)
    db.session.commit()
    assert [(e.entity, e.operation, e.data["name"]) for e in log()[3:]] == [
        ("parts", "delete", "anchor")
    ]
    db.session.delete(hull)
    db.session.commit()
    assert {(e.entity, e.operation) for e in log()[4:]} == {
        ("parts", "delete"),
        ("hulls", "delete"),
    }


# -- transactions -------------------------------------------------------------------------------


def test_a_rollback_leaves_nothing(app: Flask) -> None:
    db.session.add(Hull(name="a"))
    db.session.flush()
    db.session.rollback()
    added("b")
    assert short(log()) == [("create", "b", 1)]


def test_a_closed_session_leaves_nothing(app: Flask) -> None:
    db.session.add(Hull(name="a"))
    db.session.flush()
    db.session.remove()
    added("b")
    assert short(log()) == [("create", "b", 1)]


def test_several_flushes_give_the_net_change(app: Flask) -> None:
    hull = Hull(name="a")
    db.session.add(hull)
    db.session.flush()
    hull.name = "b"
    db.session.flush()
    hull.name = "c"
    db.session.commit()
    assert short(log()) == [("create", "c", 3)]
    hull.name = "d"
    db.session.flush()
    db.session.delete(hull)
    db.session.commit()
    assert short(log()[1:]) == [("delete", "d", 5)]


def test_a_row_created_and_deleted_in_one_transaction_is_nothing(app: Flask) -> None:
    hull = Hull(name="a")
    db.session.add(hull)
    db.session.flush()
    db.session.delete(hull)
    db.session.commit()
    assert log() == []


def test_a_row_replaced_in_one_flush_is_an_update(app: Flask) -> None:
    (hull,) = added("a")
    db.session.delete(hull)
    db.session.add(Hull(id=hull.id, name="b"))
    db.session.commit()
    assert short(log()) == [("create", "a", 1), ("update", "b", 2)]


def test_a_flush_that_fails_takes_its_entries_along(app: Flask) -> None:
    (hull,) = added("a")
    db.session.add(Hull(name="b"))
    db.session.flush()
    db.session.execute(select(Hull))
    db.session.expunge(hull)
    db.session.add(Hull(id=hull.id, name="c"))
    with pytest.raises(DBAPIError):
        db.session.flush()
    db.session.rollback()
    added("d")
    assert short(log()) == [("create", "a", 1), ("create", "d", 1)]


def test_a_released_savepoint_counts_and_one_rolled_back_does_not(app: Flask) -> None:
    with db.session.begin_nested():
        db.session.add(Hull(name="released"))
    savepoint = db.session.begin_nested()
    db.session.add(Hull(name="rolled back"))
    db.session.flush()
    savepoint.rollback()
    db.session.add(Hull(name="after"))
    db.session.commit()
    assert sorted(short(log())) == [("create", "after", 1), ("create", "released", 1)]


def test_a_savepoint_released_inside_one_rolled_back_does_not_count(app: Flask) -> None:
    (hull,) = added("a")
    hull.name = "b"
    outer = db.session.begin_nested()
    hull.name = "c"
    with db.session.begin_nested():
        db.session.delete(hull)
        db.session.add(Hull(name="x"))
    outer.rollback()
    db.session.commit()
    assert short(log()) == [("create", "a", 1), ("update", "b", 2)]


def test_a_savepoint_rolled_back_inside_one_released_does_not_count(app: Flask) -> None:
    hull = Hull(name="a")
    with db.session.begin_nested():
        db.session.add(hull)
        inner = db.session.begin_nested()
        hull.name = "b"
        db.session.flush()
        inner.rollback()
    db.session.commit()
    assert short(log()) == [("create", "a", 1)]


def test_a_delete_in_a_savepoint_of_a_row_created_before_it(app: Flask) -> None:
    hull, other = Hull(name="a"), Hull(name="b")
    db.session.add_all([hull, other])
    db.session.flush()
    with db.session.begin_nested():
        db.session.delete(hull)
    savepoint = db.session.begin_nested()
    db.session.delete(other)
    db.session.flush()
    savepoint.rollback()
    db.session.commit()
    assert short(log()) == [("create", "b", 1)]


def test_a_commit_releases_the_savepoints_that_are_open(app: Flask) -> None:
    db.session.begin_nested()
    db.session.add(Hull(name="a"))
    db.session.begin_nested()
    db.session.add(Hull(name="b"))
    db.session.commit()
    assert sorted(short(log())) == [("create", "a", 1), ("create", "b", 1)]


def test_a_transaction_committed_by_itself_under_an_open_savepoint_is_refused(app: Flask) -> None:
    with db.session.begin():
        db.session.begin_nested()
        db.session.add(Memo())
    transaction = db.session.begin()
    db.session.begin_nested()
    db.session.add(Hull(name="a"))
    with pytest.raises(CaptureError, match="end the savepoint first"):
        transaction.commit()
    db.session.rollback()
    assert tables() == {}


def test_a_savepoint_released_first_thing_goes_with_its_transaction(app: Flask) -> None:
    """SQLite's driver begins no transaction for a SAVEPOINT, and its RELEASE would be a commit."""
    with db.session.begin_nested():
        db.session.add(Hull(name="a"))
    db.session.rollback()
    db.session.scalars(select(Hull)).all()
    with db.session.begin_nested():
        db.session.add(Hull(name="b"))
    db.session.rollback()
    assert tables() == {}
    assert log() == []


def test_a_savepoint_begun_inside_a_flush_counts(app: Flask) -> None:
    def after_flush(session: Any, _context: Any) -> None:
        if session.info.pop("once", None):
            with session.begin_nested():
                session.execute(insert(Hull), [{"name": "b"}])

    event.listen(db.session, "after_flush", after_flush)
    try:
        db.session().info["once"] = True
        added("a")
    finally:
        event.remove(db.session, "after_flush", after_flush)
    assert sorted(short(log())) == [("create", "a", 1), ("create", "b", 1)]


def test_an_expunged_row_is_an_entry_as_it_was_flushed(app: Flask) -> None:
    hull = Hull(name="a")
    db.session.add(hull)
    db.session.flush()
    db.session.expunge(hull)
    hull.name = "not in the database"
    db.session.commit()
    assert short(log()) == [("create", "a", 1)]


@pytest.mark.parametrize("captured_before", [True, False])
def test_rows_changed_by_a_later_before_commit_hook_are_entries(
    app: Flask, captured_before: bool
) -> None:
    (hull,) = added("a")

    def before_commit(session: Any) -> None:
        if not session.info.get("done") and session.get_nested_transaction() is None:
            session.info["done"] = True
            session.add(Hull(name="added"))
            session.execute(update(Hull).where(Hull.id == hull.id).values(name="bulk"))
            with session.begin_nested():
                session.add(Hull(name="in a savepoint"))
            with session.begin_nested() as savepoint:
                session.add(Hull(name="in a savepoint rolled back"))
                session.flush()
                savepoint.rollback()

    event.listen(db.session, "before_commit", before_commit)
    try:
        if captured_before:
            db.session.add(Hull(name="b"))
        db.session.connection()
        db.session.commit()
    finally:
        event.remove(db.session, "before_commit", before_commit)
        db.session().info.pop("done", None)
    expected = [("create", "added", 1), ("create", "in a savepoint", 1), ("update", "bulk", 2)]
    expected += [("create", "b", 1)] if captured_before else []
    assert sorted(short(log()[1:])) == sorted(expected)


# -- bulk statements ----------------------------------------------------------------------------


@pytest.mark.parametrize("synchronize", ["auto", "evaluate", "fetch", False])
def test_a_bulk_update_is_an_entry_a_row_and_raises_the_version(
    app: Flask, synchronize: Any
) -> None:
    a, _b, c = added("a", "b", "c")
    c_id = c.id
    db.session.expunge(c)
    result: Any = db.session.execute(
        update(Hull).where(Hull.name != "b").values(name=Hull.name + "!"),
        execution_options={"synchronize_session": synchronize},
    )
    assert result.rowcount == 2
    db.session.commit()
    assert sorted(short(log()[3:])) == [("update", "a!", 2), ("update", "c!", 2)]
    assert {e.row_id for e in log()[3:]} == {a.id, c_id}
    assert all(e.data["changedAt"] for e in log()[3:])
    a.name = "goes on from the version that the database has"
    db.session.commit()


def test_a_bulk_update_leaves_an_object_as_it_is_whose_row_it_does_not_change(app: Flask) -> None:
    (hull,) = added("a")
    hull.name = sa.func.upper(Hull.name)
    db.session.flush()
    assert "name" in sa.inspect(hull).unloaded
    db.session.execute(update(Hull).where(Hull.name == "other").values(tag="x"))
    db.session.commit()
    assert short(log()[1:]) == [("update", "A", 2)]
    assert log()[1].data["tag"] == "untagged"


def test_a_bulk_update_flushes_first(app: Flask) -> None:
    a, b = added("a", "b")
    with db.session.no_autoflush:
        a.name = "mine"
        db.session.add(Hull(name="new"))
        db.session.execute(update(Hull).values(tag="all"))
    b.tag = "b's own"
    db.session.commit()
    assert sorted((e.operation, e.data["name"], e.data["tag"]) for e in log()[2:]) == [
        ("create", "new", "all"),
        ("update", "b", "b's own"),
        ("update", "mine", "all"),
    ]


def test_a_query_update_and_delete_are_captured(app: Flask) -> None:
    added("a", "b")
    assert db.session.query(Hull).filter(Hull.name == "a").update({"name": "c"}) == 1
    assert db.session.query(Hull).filter(Hull.name == "b").delete() == 1
    db.session.commit()
    assert short(log()[2:]) == [("update", "c", 2), ("delete", "b", 2)]


@pytest.mark.parametrize("synchronize", ["auto", "evaluate", "fetch", False])
def test_a_bulk_delete_is_an_entry_a_row(app: Flask, synchronize: Any) -> None:
    a, b, c = added("a", "b", "c")
    b_id, c_id = b.id, c.id
    db.session.expunge(b)
    result: Any = db.session.execute(
        delete(Hull).where(Hull.name != "c"),
        execution_options={"synchronize_session": synchronize},
    )
    assert result.rowcount == 2
    assert db.session.get(Hull, b_id) is None, "nobody finds what is deleted"
    assert (a in db.session) == (synchronize is False)
    db.session.commit()
    assert sorted(short(log()[3:])) == [("delete", "a", 2), ("delete", "b", 2)]
    assert db.session.get(Hull, c_id) is c


@pytest.mark.parametrize("synchronize", ["auto", "evaluate", "fetch", False])
def test_a_bulk_update_rolled_back_is_not_in_the_next_entry(app: Flask, synchronize: Any) -> None:
    (a,) = added("a")
    with db.session.begin_nested() as savepoint:
        db.session.execute(
            update(Hull).values(tag="rolled back"),
            execution_options={"synchronize_session": synchronize},
        )
        savepoint.rollback()
    a.name = "b"
    db.session.commit()
    assert short(log()[1:]) == [("update", "b", 2)]
    assert log()[1].data["tag"] == "untagged"


def test_a_bulk_delete_rolled_back_leaves_the_rows(app: Flask) -> None:
    (a,) = added("a")
    with db.session.begin_nested() as savepoint:
        db.session.execute(delete(Hull))
        savepoint.rollback()
    a.name = "b"
    db.session.commit()
    assert short(log()) == [("create", "a", 1), ("update", "b", 2)]


@pytest.mark.parametrize("statement", ["update", "delete"])
def test_a_bulk_statement_logs_what_the_database_has_and_not_what_the_session_remembers(
    app: Flask, statement: str
) -> None:
    (hull,) = added("a")
    with app.app_context():  # a session of its own
        db.session.get_one(Hull, hull.id).name = "b"
        db.session.commit()
    assert (hull.name, hull.version) == ("a", 1)
    change: Any = update(Hull).values(tag="x") if statement == "update" else delete(Hull)
    db.session.execute(change)
    db.session.commit()
    assert short(log()[-1:]) == [(statement, "b", 3)]


def test_a_bulk_insert_is_an_entry_a_row(app: Flask) -> None:
    db.session.execute(insert(Hull), [{"name": "a"}, {"name": "b"}])
    db.session.execute(insert(Hull).values(id=new_id(), name="c", version=1))
    db.session.commit()
    assert sorted(short(log())) == [("create", "a", 1), ("create", "b", 1), ("create", "c", 1)]


def test_a_bulk_statement_after_single_changes_gives_the_net_change(app: Flask) -> None:
    (old,) = added("old")
    db.session.add(Hull(name="new"))
    old.name = "older"
    db.session.execute(update(Hull).values(tag="x"))
    db.session.execute(delete(Hull).where(Hull.name == "older"))
    db.session.commit()
    assert sorted(short(log()[1:])) == [("create", "new", 2), ("delete", "older", 4)]


def _from_statement() -> Any:
    changed = update(Hull).values(name="x").returning(Hull)
    return select(Hull).from_statement(changed)


def _or_replace() -> Any:
    return insert(Hull).values(id="1", version=1).prefix_with("OR REPLACE")


def _key() -> Any:
    return update(Hull).values(id="x")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_from_statement, "Hull can't be captured inside select"),
        (_or_replace, "INSERT OR REPLACE of Hull can't be captured"),
        (_key, "the primary key of a Hull can't be changed"),
    ],
)
def test_a_bulk_statement_that_hides_its_rows_is_refused(app: Flask, make: Any, words: str) -> None:
    added("a")
    before = tables()
    with pytest.raises(CaptureError, match=words):
        db.session.execute(make())
    db.session.commit()
    assert tables() == before
    assert len(log()) == 1


def test_an_applications_own_listener_sees_a_bulk_statement_once(app: Flask) -> None:
    added("a", "b")
    seen = []

    def only_a(state: ORMExecuteState) -> None:
        seen.append(state.is_update)
        state.statement = state.statement.where(Hull.name == "a")  # type: ignore[attr-defined]

    event.listen(db.session, "do_orm_execute", only_a)
    try:
        db.session.execute(update(Hull).values(tag="x"))
    finally:
        event.remove(db.session, "do_orm_execute", only_a)
    db.session.commit()
    assert seen == [True]
    assert short(log()[2:]) == [("update", "a", 2)]


def test_a_listener_may_execute_a_bulk_statement_itself(app: Flask) -> None:
    added("a")

    def execute(state: ORMExecuteState) -> Any:
        return state.invoke_statement()

    event.listen(db.session, "do_orm_execute", execute)
    try:
        done: Any = db.session.execute(update(Hull).values(tag="x"))
    finally:
        event.remove(db.session, "do_orm_execute", execute)
    db.session.commit()
    assert done.rowcount == 1
    assert short(log()[1:]) == [("update", "a", 2)]


def test_no_listener_makes_selects_dearer(app: Flask) -> None:
    assert not db.session().dispatch.do_orm_execute


def test_a_bulk_update_of_the_primary_key_is_refused(app: Flask) -> None:
    added("a")
    with pytest.raises(CaptureError, match="the primary key of a Hull can't be changed"):
        db.session.execute(update(Hull).where(Hull.name == "a"), {"id": "b"})
    db.session.commit()
    assert short(log()) == [("create", "a", 1)]


def test_a_bulk_update_takes_its_values_as_parameters(app: Flask) -> None:
    added("a")
    db.session.execute(update(Hull).where(Hull.name == "a"), {"name": "b"})
    db.session.commit()
    assert short(log()[1:]) == [("update", "b", 2)]


def test_a_changed_primary_key_is_refused(app: Flask) -> None:
    (hull,) = added("a")
    hull.id = new_id()
    with pytest.raises(CaptureError, match="the primary key of a Hull can't be changed"):
        db.session.commit()
    db.session.rollback()
    assert len(log()) == 1


# -- past the ORM -------------------------------------------------------------------------------


def test_raw_sql_is_captured_by_record(app: Flask) -> None:
    (hull,) = added("a")
    db.session.execute(sa.text("UPDATE hull SET name = 'b', version = 2"))
    db.session.refresh(hull)
    sync.record("update", hull)
    db.session.commit()
    db.session.execute(sa.text("DELETE FROM hull"))
    sync.record("delete", hull)
    db.session.commit()
    made = Hull(id=new_id(), name="c", version=1, tag="untagged")
    db.session.execute(
        sa.text("INSERT INTO hull (id, name, version) VALUES (:id, 'c', 1)"), {"id": made.id}
    )
    sync.record("create", made)
    db.session.commit()
    assert short(log()[1:]) == [("update", "b", 2), ("delete", "b", 3), ("create", "c", 1)]


def raw(statement: str, **arguments: Any) -> None:
    db.session.execute(sa.text(statement), arguments)


def test_record_logs_the_row_that_the_database_has_and_not_what_the_object_remembers(
    app: Flask,
) -> None:
    (hull,) = added("a")
    raw("UPDATE hull SET name = 'b', version = 2")
    sync.record("update", hull)
    db.session.commit()
    receipt = sync.publish_change("update", hull)
    assert receipt
    assert receipt.message_id == message_ids()[-1]
    raw("UPDATE hull SET name = 'c', version = 7")
    db.session.expire(hull)
    sync.record("update", hull)
    raw("UPDATE hull SET name = 'd', version = 8")
    sync.record("update", Hull(id=hull.id, name="not so", version=None))
    db.session.commit()
    assert short(log()[1:]) == [("update", "b", 2), ("update", "d", 8)]


def test_record_reads_the_version_of_a_row_whose_object_has_none(app: Flask) -> None:
    made = Hull(id=new_id())
    raw("INSERT INTO hull (id, name, version) VALUES (:id, 'a', 3)", id=made.id)
    sync.record("create", made)
    db.session.commit()
    assert short(log()) == [("create", "a", 3)]
    assert sync.publish_change("create", made)


def test_record_takes_the_version_that_a_trigger_has_raised(app: Flask) -> None:
    if db.engine.dialect.name != "sqlite":
        pytest.skip("one kind of trigger will do")
    (hull,) = added("a")
    raw(
        "CREATE TRIGGER raise_version AFTER UPDATE OF name ON hull"
        " BEGIN UPDATE hull SET version = version + 1 WHERE id = new.id; END"
    )
    raw("UPDATE hull SET name = 'b'")
    sync.record("update", hull)
    db.session.commit()
    assert short(log()[1:]) == [("update", "b", 2)]


def test_record_flushes_what_the_session_holds(app: Flask) -> None:
    (hull,) = added("a")
    hull.tag = "mine"
    raw("UPDATE hull SET changed_at = NULL")
    sync.record("update", hull)
    pending = Hull(name="new")
    db.session.add(pending)
    sync.record("create", pending)
    db.session.commit()
    assert sorted(short(log()[1:])) == [("create", "new", 1), ("update", "a", 2)]


def test_a_recorded_delete_is_newer_than_all_that_is_logged(app: Flask) -> None:
    stale, expired, unknown = added("a", "b", "c")
    db.session.expunge(stale)
    raw("UPDATE hull SET version = 5 WHERE id = :id", id=stale.id)
    sync.record("update", stale)
    raw("UPDATE hull SET version = 4 WHERE id = :id", id=expired.id)
    sync.record("update", expired)
    db.session.commit()
    key = unknown.id
    db.session.expunge(unknown)
    db.session.expire(expired)
    raw("DELETE FROM hull")
    for row in (stale, expired, Hull(id=key)):
        sync.record("delete", row)
    db.session.commit()
    assert short(log()[5:]) == [("delete", "a", 6), ("delete", "b", 5), ("delete", "c", 2)]


def test_record_refuses_a_row_whose_version_is_not_known(app: Flask) -> None:
    db.session.connection()
    for operation in ("create", "update", "delete"):
        for version in (None, 0):
            with pytest.raises(CaptureError, match="the version of Hull x is not known"):
                sync.record(operation, Hull(id="x", version=version))
    with pytest.raises(CaptureError, match="Hull without a primary key"):
        sync.record("create", Hull(version=1))
    (hull,) = added("a")
    raw("UPDATE hull SET version = 0")
    with pytest.raises(CaptureError, match="is not known"):
        sync.record("update", hull)
    db.session.rollback()
    raw("DELETE FROM hull")
    with pytest.raises(CaptureError, match="there is no Hull"):
        sync.record("update", hull)
    db.session.rollback()
    assert [entry.version for entry in log()] == [1]


def test_record_goes_with_the_savepoint(app: Flask) -> None:
    db.session.connection()
    savepoint = db.session.begin_nested()
    sync.record("create", Hull(id=new_id(), version=1))
    savepoint.rollback()
    db.session.commit()
    assert log() == []


def test_record_refuses_what_is_not_registered_and_what_has_no_transaction(app: Flask) -> None:
    with pytest.raises(CaptureError, match="only inside a transaction"):
        sync.record("create", Hull(id="1", version=1))
    db.session.connection()
    with pytest.raises(CaptureError, match="Memo is not registered"):
        sync.record("create", Memo())
    with pytest.raises(ValueError, match="upsert"):
        sync.record("upsert", Hull())


# -- what can't be serialised -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [("unserialisable", r"ValueError: no words for it: \ud800 \0"), ("not JSON", "TypeError: ")],
)
def test_a_row_that_cannot_be_serialised_is_quarantined_and_the_commit_succeeds(
    app: Flask, caplog: pytest.LogCaptureFixture, name: str, reason: str
) -> None:
    good, bad = added("good", name)
    assert [e.outcome for e in log()] == [None, "quarantined"]
    assert log()[1].data == {"id": bad.id, "version": 1}
    with db.engine.connect() as connection:
        told = connection.execute(sa.text("SELECT reason FROM arus_change ORDER BY id")).scalars()
        assert told.all()[1].startswith(reason)
        assert read_counters(connection) == {(FAILURES, "", "", ""): 1}
    told_of = f"[MQTT Reliable Sync] change quarantined: hulls {bad.id} can't be serialised"
    assert f"{told_of} ({reason}" in caplog.text
    assert sync.runtime().changes.states("hulls", [good.id, bad.id, "unknown"]) == {
        good.id: "pending",
        bad.id: "quarantined",
    }
    receipt = sync.publish_change("create", bad)
    assert receipt, "a quarantined change is in the log too"
    assert receipt.data is None, "what is in the log for it is not the row"
    db.session.delete(bad)
    db.session.commit()
    assert log()[2].outcome == "quarantined"
    assert log()[2].version == 2


def test_a_row_that_is_gone_at_the_commit_is_quarantined(app: Flask) -> None:
    (hull,) = added("a")
    hull.name = "b"
    db.session.flush()
    driver: Any = db.session.connection().connection.dbapi_connection
    driver.cursor().execute("DELETE FROM hull")  # past SQLAlchemy, so past the capture
    db.session.expire(hull)
    db.session.commit()
    assert [e.outcome for e in log()] == [None, "quarantined"]


# -- receipts, LOCAL_MODE -----------------------------------------------------------------------


def message_ids() -> list[str]:
    with db.engine.connect() as connection:
        ids = connection.execute(sa.text("SELECT message_id FROM arus_change ORDER BY id"))
        return list(ids.scalars())


def test_the_receipt_names_the_last_change_of_the_row(app: Flask) -> None:
    (hull,) = added("a")
    first = sync.publish_change("create", hull)
    hull.name = "b"
    db.session.commit()
    second = sync.publish_change("update", hull)
    db.session.delete(hull)
    db.session.commit()
    third = sync.publish_change("delete", hull)
    assert [r and r.message_id for r in (first, second, third)] == message_ids()
    said = [json.loads(r.data) for r in (first, second) if r and r.data]
    assert said == [e.data for e in log()[:2]]


def test_a_row_that_was_not_captured_has_no_receipt(app: Flask) -> None:
    hull = Hull(name="a")
    db.session.add(hull)
    db.session.flush()
    assert sync.publish_change("create", hull) is None
    db.session.rollback()
    assert sync.publish_change("create", hull) is None
    with pytest.raises(ValueError, match="upsert"):
        sync.publish_change("upsert", hull)


def test_a_commit_rings_the_bell_and_neither_a_rollback_nor_an_empty_commit_does(
    app: Flask,
) -> None:
    notifier = app.extensions["arus"].notifier
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.setblocking(False)
        Path(notifier._path).parent.mkdir(mode=0o700, exist_ok=True)
        listener.bind(notifier._path)
        db.session.add(Hull())
        db.session.flush()
        db.session.rollback()
        db.session.add(Memo())
        db.session.commit()
        with pytest.raises(BlockingIOError):
            listener.recv(1)
        added("a")
        assert listener.recv(1) == b"!"


def test_ashore_nothing_is_captured_and_nothing_refused(small_database_url: str) -> None:
    with small_app(small_database_url, LOCAL_MODE="false"):
        (hull,) = added("a")
        hull.name = "b"
        db.session.commit()
        rows = db.session.execute(update(Hull).values(name="c").returning(Hull.name)).scalars()
        assert rows.all() == ["c"]
        db.session.execute(delete(Hull))
        sync.record("delete", hull)
        db.session.commit()
        assert log() == []
        assert sync.publish_change("delete", hull) is None


# -- a log that can't be written ----------------------------------------------------------------


def test_without_its_log_entry_a_row_is_not_committed(app: Flask) -> None:
    app.config["LOG_WAS_GONE"] = True
    (hull,) = added("a")
    with db.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE arus_change"))
    hull.name = "b"
    db.session.add(Hull(name="c"))
    with pytest.raises(DBAPIError):
        db.session.commit()
    with pytest.raises((CaptureError, DBAPIError, sa.exc.InvalidRequestError)):
        db.session.commit()  # a second try must not leave the entries out
    db.session.rollback()
    assert [row["name"] for row in tables().values()] == ["a"]
    db.create_all()
    hull.name = "d"
    db.session.commit()
    assert short(log()) == [("update", "d", 2)]


def test_a_commit_that_another_hook_stops_can_be_tried_again(app: Flask) -> None:
    hull = Hull(name="a")
    db.session.add(hull)

    def stop(session: Any) -> None:
        raise RuntimeError("not yet")

    event.listen(db.session, "before_commit", stop)
    try:
        with pytest.raises(RuntimeError):
            db.session.commit()
    finally:
        event.remove(db.session, "before_commit", stop)
    assert sync.publish_change("create", hull) is None
    hull.name = "b"
    db.session.commit()
    assert short(log()) == [("create", "a", 1), ("update", "b", 2)]
