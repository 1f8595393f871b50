"""Models without a version column: the log keeps the versions of their rows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, update
from sqlalchemy.dialects import postgresql, sqlite

from arus.database import open_engine
from arus.outbox.log import ChangeLog
from arus.outbox.snapshot import SnapshotReader
from tests.support.plain_app import Locker, Logged, Tool, db, empty, log, plain_app, sync
from tests.support.random_steps import RandomSteps

KEYS = ("a", "b", "c", "d")
STEPS = (
    "add", "add", "add", "change", "change", "expression", "delete", "tool", "tool", "raise nothing", "flush",
    "bulk update", "bulk delete", "bulk insert", "core update", "core insert", "core delete", "on the engine",
    "legacy insert", "legacy update", "upsert", "merge", "text", "text delete", "second session", "past the capture",
    "savepoint", "savepoint", "release", "roll back savepoint", "commit", "commit", "roll back",
)  # fmt: skip


@pytest.fixture
def app(small_database_url: str) -> Iterator[Flask]:
    with plain_app(small_database_url) as app:
        yield app


class Sailor(RandomSteps):
    """Does random steps; the keys of lockers are few, so that they are used again and again."""

    def __init__(self, seed: int) -> None:
        super().__init__(db, seed)

    def some(self, model: type[Any]) -> Any:
        rows = db.session.scalars(sa.select(model).order_by(model.id)).all()
        return self.random.choice(rows) if rows else None

    def free(self) -> str | None:
        known = set(db.session.scalars(sa.select(Locker.id)))
        free = [key for key in KEYS if key not in known]
        return self.random.choice(free) if free else None

    def parent(self) -> str | None:
        locker = self.some(Locker)
        return locker.id if locker and self.random.random() < 0.3 else None

    def some_lockers(self) -> Any:
        return Locker.id.in_(self.random.sample(KEYS, 2))

    def add(self) -> None:
        key = self.free()
        if key:
            db.session.add(Locker(id=key, name=self.name(), inside_id=self.parent()))
            db.session.flush()

    def change(self) -> None:
        row = self.some(self.random.choice([Locker, Tool]))
        if row:
            row.name = self.name()

    def expression(self) -> None:
        row = self.some(Locker)
        if row:
            row.name = self.random.choice(
                [Locker.name + "!", sa.func.upper(Locker.name), sa.null(), sa.literal(self.name())]
            )
            db.session.flush()

    def raise_nothing(self) -> None:
        row = self.some(Locker)
        if row:
            before, row.name = row.name, "other"
            row.name = before

    def delete(self) -> None:
        row = self.some(self.random.choice([Locker, Tool]))
        if row:
            db.session.delete(row)
            db.session.flush()
            db.session.expunge_all()

    def tool(self) -> None:
        locker = self.some(Locker)
        if locker:
            locker.tools.append(Tool(name=self.name()))

    def bulk_update(self) -> None:
        db.session.execute(update(Locker).where(self.some_lockers()).values(name=self.name()))

    def bulk_delete(self) -> None:
        db.session.execute(delete(Locker).where(self.some_lockers()))
        db.session.expunge_all()

    def bulk_insert(self) -> None:
        key = self.free()
        if key:
            db.session.execute(insert(Locker), [{"id": key, "name": self.name()}])

    def core_update(self) -> None:
        table: Any = Locker.__table__
        statement = update(table).where(table.c.id.in_(KEYS[:2])).values(name=self.name())
        db.session.execute(statement)

    def core_insert(self) -> None:
        key = self.free()
        if key:
            table: Any = Locker.__table__
            db.session.execute(insert(table), [{"id": key, "name": self.name()}])

    def core_delete(self) -> None:
        table: Any = Locker.__table__
        db.session.execute(delete(table).where(table.c.id.in_(KEYS[1:3])))
        db.session.expunge_all()

    def on_the_engine(self) -> None:
        self.commit()
        table: Any = Locker.__table__
        with db.engine.begin() as connection:
            connection.execute(update(table).values(name=self.name()))
            if self.random.random() < 0.5:
                connection.execute(delete(table))
        db.session.expunge_all()

    def legacy_insert(self) -> None:
        key = self.free()
        if key:
            db.session.bulk_insert_mappings(Locker, [{"id": key, "name": self.name()}])

    def legacy_update(self) -> None:
        db.session.flush()
        row = self.some(Locker)
        if row:
            row = {"id": row.id, "name": self.name()}
            db.session.bulk_update_mappings(Locker, [row])

    def upsert(self) -> None:
        db.session.flush()
        dialect: Any = postgresql if db.engine.dialect.name == "postgresql" else sqlite
        key, name = self.random.choice(KEYS), self.name()
        statement = dialect.insert(Locker).values(id=key, name=name)
        changed = {"name": name}
        db.session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changed))

    def merge(self) -> None:
        db.session.merge(Locker(id=self.random.choice(KEYS), name=self.name()))
        db.session.flush()

    def text(self) -> None:
        row = self.some(Locker)
        if row:
            wanted = {"id": row.id, "name": self.name()}
            db.session.execute(sa.text("UPDATE p_locker SET name = :name WHERE id = :id"), wanted)
            sync.record("update", row)

    def text_delete(self) -> None:
        row = self.some(Tool)
        if row:
            db.session.execute(sa.text("DELETE FROM p_tool WHERE id = :id"), {"id": row.id})
            sync.record("delete", row)
            db.session.flush()
            db.session.expunge_all()

    def second_session(self) -> None:
        self.commit()
        with sa.orm.Session(db.engine) as other:
            for locker in other.scalars(sa.select(Locker)).all()[:2]:
                locker.name = self.name()
            other.commit()
        db.session.expunge_all()

    def past_the_capture(self) -> None:
        self.commit()
        engine = open_engine(db.engine.url)
        with engine.connect() as connection:
            connection.execute(
                sa.text("UPDATE p_locker SET name = :name WHERE id = 'a'"), {"name": self.name()}
            )
            connection.execute(sa.text("DELETE FROM p_tool"))
        engine.dispose()
        sync.reconcile()
        db.session.expunge_all()


def replayed(entries: list[Logged]) -> dict[tuple[str, str], tuple[int, dict[str, Any]]]:
    """Version and content of each row, as a receiver of the log knows them."""
    rows: dict[tuple[str, str], tuple[int, dict[str, Any]] | None] = {}
    versions: dict[tuple[str, str], int] = {}
    for entry in entries:
        key = (entry.entity, entry.row_id)
        assert entry.version > versions.get(key, 0), f"{entry} does not have a new version"
        versions[key] = entry.version
        rows[key] = None if entry.operation == "delete" else (entry.version, entry.data)
    return {key: row for key, row in rows.items() if row is not None}


def in_a_snapshot() -> dict[tuple[str, str], tuple[int, dict[str, Any]]]:
    """Version and content of each row, as a catch-up sends them from the tables."""
    engine = open_engine(db.engine.url)
    found = {}
    with engine.connect() as connection:
        changes = ChangeLog(connection, vessel_id="ship-1")
        with changes.fenced_transaction() as fenced:
            fenced.number(changes.unnumbered(10_000))
            fenced.save_topic_queues()
        for registration in sync.runtime().registry:
            reader = SnapshotReader(engine, nullcontext, registration, high_seq=changes.head_seq)
            position: str | None = None
            while True:
                items, position = reader.read(position, 3)
                for item in items:
                    key = (registration.entity, item.row_id)
                    found[key] = (item.version, orjson.loads(item.data))
                if position is None:
                    break
    engine.dispose()
    return found


def sail(seed: int, steps: list[str]) -> None:
    print(f"seed {seed}, steps {steps}")
    empty()
    sailor = Sailor(seed)
    try:
        for step in steps:
            sailor.do(step)
        sailor.commit()
    finally:
        db.session.remove()
    assert replayed(log()) == in_a_snapshot()
    assert [found.logged for found in sync.reconcile()] == [0, 0]


@settings(
    max_examples=50,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32), steps=st.lists(st.sampled_from(STEPS), min_size=4, max_size=30))
def _any_voyage(seed: int, steps: list[str]) -> None:
    sail(seed, steps)


@pytest.mark.slow
def test_versions_never_repeat_or_shrink_and_a_snapshot_has_the_same(app: Flask) -> None:
    _any_voyage()


def test_what_was_recorded_in_a_savepoint_that_was_rolled_back_is_told_by_no_entry(
    app: Flask,
) -> None:
    sail(0, ["add", "savepoint", "text", "roll back savepoint"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_versions_never_repeat_or_shrink_on_a_long_voyage(app: Flask, seed: int) -> None:
    sail(seed, random.Random(seed).choices(STEPS, k=300))
