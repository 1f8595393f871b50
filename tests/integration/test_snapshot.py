"""A table as it was at one number, read in pieces while it changes: what is announced is what comes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import nullcontext
from threading import Event

import orjson
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria

from arus.audit.contents import each_row
from arus.database import open_engine, reading
from arus.outbox.log import ChangeLog
from arus.outbox.snapshot import SnapshotReader
from arus.protocol.entries import Operation
from tests.support import small_app as small


@pytest.fixture
def log(small_database_url: str) -> Iterator[ChangeLog]:
    """The change log of the small application, which nobody relays."""
    with small.small_app(small_database_url) as app:
        engine = open_engine(app.config["SQLALCHEMY_DATABASE_URI"])
        with engine.connect() as connection:
            yield ChangeLog(connection, vessel_id="ship-1")
        engine.dispose()


def number(log: ChangeLog) -> int:
    """Give numbers to all that was committed; return the highest."""
    with log.fenced_transaction() as fenced:
        fenced.number(log.unnumbered(10_000))
        fenced.save_topic_queues()
    return log.head_seq


def write(chance: random.Random, alive: set[str]) -> None:
    """Create, change or delete a few rows in one transaction."""
    for _ in range(chance.randint(1, 3)):
        what = chance.choice(["create", "create", "update", "delete", "again"])
        if what == "create" or not alive:
            hull_id = f"{chance.getrandbits(32):08x}"
            small.db.session.add(small.Hull(id=hull_id, name="new"))
            alive.add(hull_id)
        else:
            hull_id = chance.choice(sorted(alive))
            hull = small.db.session.get_one(small.Hull, hull_id)
            if what == "update":
                hull.name = f"changed {chance.random()}"
            else:
                small.db.session.delete(hull)
                alive.discard(hull_id)
                if what == "again":  # the same id once more, later
                    small.db.session.commit()
                    small.db.session.add(small.Hull(id=hull_id, name="again"))
                    alive.add(hull_id)
        small.db.session.commit()


@pytest.mark.slow
@given(seed=st.integers(0, 2**32))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_each_row_of_the_moment_comes_once_whatever_is_written_meanwhile(
    log: ChangeLog, seed: int
) -> None:
    chance = random.Random(seed)
    note(f"seed {seed}")
    small.db.session.remove()
    with small.db.engine.begin() as connection:
        connection.execute(delete(small.Hull))
    alive: set[str] = set()
    for _ in range(chance.randint(0, 6)):
        write(chance, alive)
    high = number(log)
    then = set(alive)
    engine = open_engine(small.db.engine.url)
    registration = small.sync._registry.of_entity("hulls")
    assert registration is not None
    reader = SnapshotReader(engine, nullcontext, registration, high_seq=high)
    if chance.random() < 0.5:
        write(chance, alive)
    total = reader.count()
    assert total == len(then)
    came: list[tuple[str, Operation]] = []
    position = None
    while True:
        if chance.random() < 0.6:
            write(chance, alive)
        if chance.random() < 0.5:
            number(log)
        if chance.random() < 0.2:  # the owner was killed: another one goes on from the position
            reader = SnapshotReader(engine, nullcontext, registration, high_seq=high)
        items, position = reader.read(position, chance.randint(1, 4))
        came += [(item.row_id, item.operation) for item in items]
        if position is None:
            break
    assert sorted(row_id for row_id, _ in came) == sorted(then)
    engine.dispose()


def test_a_row_that_cannot_be_serialised_is_announced(log: ChangeLog) -> None:
    small.db.session.add(small.Hull(id="bad", name="unserialisable"))
    small.db.session.commit()
    engine = open_engine(small.db.engine.url)
    registration = small.sync._registry.of_entity("hulls")
    assert registration is not None
    reader = SnapshotReader(engine, nullcontext, registration, high_seq=number(log))
    items, position = reader.read(None, 10)
    assert position is None
    assert [(item.row_id, item.data) for item in items] == [("bad", b'{"id":"bad","version":1}')]
    engine.dispose()


def test_rows_that_another_program_has_made_unreadable_hide_no_others(log: ChangeLog) -> None:
    written = ["changed_at = 'infinity'"]
    if small.db.engine.dialect.name == "sqlite":  # PostgreSQL refuses these
        written += ["name = CAST(x'ff' AS TEXT)", "version = 'new'"]
    bad = [f"b{number}" for number in range(len(written))]
    for hull_id in ("a", *bad, "c"):
        small.db.session.add(small.Hull(id=hull_id, name="Fram"))
    small.db.session.commit()
    with small.db.engine.begin() as connection:
        for hull_id, values in zip(bad, written, strict=True):
            connection.exec_driver_sql(f"UPDATE hull SET {values} WHERE id = '{hull_id}'")
    engine = open_engine(small.db.engine.url)
    registration = small.sync._registry.of_entity("hulls")
    assert registration is not None
    items, _ = SnapshotReader(engine, nullcontext, registration, high_seq=number(log)).read(None, 9)
    assert [item.row_id for item in items] == ["a", *bad, "c"]
    first, *placeholders, last = [orjson.loads(item.data) for item in items]
    assert all(one.keys() == {"id", "version"} for one in placeholders)
    with reading(engine) as connection:
        rows = list(each_row(connection, registration, nullcontext, Event()))
    assert [row.data for row in rows] == [first, *([None] * len(bad)), last]
    with engine.connect() as connection:  # the database is used again
        connection.exec_driver_sql("DELETE FROM hull")
    engine.dispose()


def test_rows_that_the_application_hides_are_in_it(log: ChangeLog) -> None:
    def hide(state: ORMExecuteState) -> None:
        criteria = with_loader_criteria(small.Hull, small.Hull.name != "gone")
        state.statement = state.statement.options(criteria)

    small.db.session.add_all([small.Hull(id="a", name="gone"), small.Hull(id="b", name="Fram")])
    small.db.session.commit()
    engine = open_engine(small.db.engine.url)
    registration = small.sync._registry.of_entity("hulls")
    assert registration is not None
    reader = SnapshotReader(engine, nullcontext, registration, high_seq=number(log))
    event.listen(Session, "do_orm_execute", hide)
    try:
        items, _ = reader.read(None, 9)
    finally:
        event.remove(Session, "do_orm_execute", hide)
    assert reader.count() == len(items) == 2
    engine.dispose()
