"""Random transactions against a model: whatever is done, who replays the log has the tables."""

from __future__ import annotations

import random
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, update
from sqlalchemy.dialects import postgresql, sqlite

from tests.support.random_steps import RandomSteps
from tests.support.small_app import Hull, Part, db, empty, log, new_id, replayed, small_app, tables

STEPS = (
    "add", "add", "change", "change", "change", "expression", "expression", "delete", "part", "move part", "touch", "flush",
    "bulk update", "bulk delete", "bulk insert", "core update", "core update", "core insert", "core delete",
    "legacy insert", "legacy update", "upsert", "merge", "second session", "expunge", "raw", "replace",
    "savepoint", "savepoint", "release", "roll back savepoint",
    "commit", "commit", "roll back", "other session",
)  # fmt: skip


class Sailor(RandomSteps):
    """Does random steps in sessions, one after another, and remembers nothing but the random numbers."""

    def __init__(self, seed: int) -> None:
        super().__init__(db, seed)

    def some(self, model: type[Any]) -> Any:
        ids = db.session.scalars(sa.select(model.id).order_by(model.name)).all()
        return db.session.get(model, self.random.choice(ids)) if ids else None

    def add(self) -> None:
        db.session.add(
            Hull(name=self.name(), parts=[Part(name=self.name())] * self.random.randint(0, 1))
        )

    def change(self) -> None:
        row = self.some(self.random.choice([Hull, Part]))
        if row:
            row.name = self.name()

    def expression(self) -> None:
        model: Any = self.random.choice([Hull, Part])
        row = self.some(model)
        if row:
            row.name = self.random.choice(
                [
                    model.name + self.name(),
                    model.name,
                    sa.func.upper(model.name),
                    sa.select(sa.func.max(model.name)).scalar_subquery(),
                    sa.case((model.version > 2, self.name()), else_=model.name),
                    sa.literal(self.name()),
                    sa.null(),
                ]
            )
            if model is Hull and self.random.random() < 0.3:
                db.session.delete(row)

    def touch(self) -> None:
        hull = self.some(Hull)
        if hull:
            before, hull.name = hull.name, "other"
            hull.name = before

    def delete(self) -> None:
        hull = self.some(Hull)
        if hull:
            db.session.delete(hull)

    def part(self) -> None:
        hull = self.some(Hull)
        if hull:
            hull.parts.append(Part(name=self.name()))

    def move_part(self) -> None:
        part, hull = self.some(Part), self.some(Hull)
        if part and self.random.random() < 0.5:
            part.hull = hull
        elif part:
            part.hull.parts.remove(part)

    def replace(self) -> None:
        hull = self.some(Hull)
        if hull and not hull.parts:
            db.session.flush()
            row_id = hull.id  # it may be expired: once it is deleted, nothing can be loaded
            db.session.delete(hull)
            db.session.add(Hull(id=row_id, name=self.name()))

    def bulk_update(self) -> None:
        chosen = Hull.name.endswith(str(self.random.randint(0, 9)))
        how = self.random.choice(["auto", "evaluate", "fetch", False])
        db.session.execute(
            update(Hull).where(chosen).values(tag=self.name()),
            execution_options={"synchronize_session": how if how != "evaluate" else "auto"},
        )

    def bulk_delete(self) -> None:
        chosen = Part.name.endswith(str(self.random.randint(0, 9)))
        how = self.random.choice(["auto", "fetch"])
        db.session.execute(
            delete(Part).where(chosen), execution_options={"synchronize_session": how}
        )
        # As everyone must after a bulk delete: the collections do not know of it.
        db.session.expire_all()

    def bulk_insert(self) -> None:
        db.session.execute(insert(Hull), [{"name": self.name()}, {"name": self.name()}])

    def core_update(self) -> None:
        hulls: Any = Hull.__table__
        chosen = hulls.c.name.endswith(str(self.random.randint(0, 9)))
        where = db.session if self.random.random() < 0.7 else db.session.connection()
        where.execute(hulls.update().where(chosen).values(tag=self.name()))

    def core_insert(self) -> None:
        hulls: Any = Hull.__table__
        rows = [{"name": self.name(), "version": 1} for _ in range(self.random.randint(1, 3))]
        db.session.execute(hulls.insert(), rows)

    def core_delete(self) -> None:
        parts: Any = Part.__table__
        chosen = parts.c.name.endswith(str(self.random.randint(0, 9)))
        db.session.execute(parts.delete().where(chosen))
        db.session.expire_all()  # the collections do not know of it

    def legacy_insert(self) -> None:
        db.session.bulk_insert_mappings(Hull, [{"name": self.name(), "version": 1}])
        db.session.bulk_save_objects([Hull(name=self.name())])

    def legacy_update(self) -> None:
        db.session.flush()
        hull = self.some(Hull)
        if hull:
            row = {"id": hull.id, "version": hull.version, "name": self.name()}
            db.session.bulk_update_mappings(Hull, [row])

    def upsert(self) -> None:
        db.session.flush()
        hull = self.some(Hull)
        dialect: Any = postgresql if db.engine.dialect.name == "postgresql" else sqlite
        key = hull.id if hull and self.random.random() < 0.7 else new_id()
        statement = dialect.insert(Hull).values(id=key, name=self.name(), version=1)
        changed = {"name": self.name()}
        db.session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changed))

    def merge(self) -> None:
        hull = self.some(Hull)
        if hull:
            db.session.merge(Hull(id=hull.id, version=hull.version, name=self.name()))

    def second_session(self) -> None:
        self.commit()
        with sa.orm.Session(db.engine) as other:  # of no factory of ours
            for hull in other.scalars(sa.select(Hull)).all()[:2]:
                hull.name = self.name()
            other.add(Hull(name=self.name()))
            other.commit()
        hulls: Any = Hull.__table__
        with db.engine.begin() as connection:
            connection.execute(sa.update(hulls).values(tag=self.name()))
        db.session.expire_all()

    def expunge(self) -> None:
        db.session.flush()
        db.session.expunge_all()

    def raw(self) -> None:
        db.session.execute(sa.text("SELECT 1"))

    def commit(self) -> None:
        super().commit()
        if self.random.random() < 0.3:
            db.session.remove()

    def other_session(self) -> None:
        self.commit()
        ours = db.session()
        with db.session.registry.createfunc() as other:  # the same factory, a session of its own
            hulls = other.scalars(sa.select(Hull)).all()
            for hull in hulls[:2]:
                hull.name = self.name()
            other.commit()
        assert db.session() is ours
        db.session.expire_all()


def sail(seed: int, steps: list[str]) -> None:
    print(f"seed {seed}, steps {steps}")
    empty()
    sailor = Sailor(seed)
    try:
        for step in steps:
            sailor.do(step)
            if step in {"commit", "roll back", "other session"}:
                assert replayed(log()) == tables()
        sailor.commit()
    finally:
        db.session.remove()
    assert replayed(log()) == tables()


@settings(
    max_examples=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32), steps=st.lists(st.sampled_from(STEPS), min_size=4, max_size=30))
def _any_voyage(seed: int, steps: list[str]) -> None:
    sail(seed, steps)


@pytest.mark.slow
def test_replaying_the_log_gives_the_tables_whatever_was_done(small_database_url: str) -> None:
    with small_app(small_database_url):
        _any_voyage()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_replaying_the_log_gives_the_tables_after_a_long_voyage(
    small_database_url: str, seed: int
) -> None:
    with small_app(small_database_url):
        sail(seed, random.Random(seed).choices(STEPS, k=400))
