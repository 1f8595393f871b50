"""Rows that refer to each other, on a PostgreSQL whose role may not leave references unchecked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from marshmallow import Schema, fields
from sqlalchemy import Connection, ForeignKey, MetaData, String, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from arus.database import open_engine
from arus.follower import tables
from arus.outbox.tables import define
from arus.registry import Registry
from tests.support.applier import change_message, new_applier
from tests.support.postgres import as_plain_role

pytestmark = pytest.mark.parametrize("database_kind", ["postgresql"])


class Base(DeclarativeBase):
    metadata = MetaData()


class Plan(Base):
    __tablename__ = "plan"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]
    job_id: Mapped[str | None] = mapped_column(
        ForeignKey("job.id", use_alter=True, name="plan_job")
    )
    #: Neither can be inserted first: the constraints are checked at the commit.
    next_id: Mapped[str] = mapped_column(
        ForeignKey("plan.id", deferrable=True, initially="DEFERRED")
    )


class Job(Base):
    __tablename__ = "job"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]
    number: Mapped[str] = mapped_column(String(20), unique=True)
    plan_id: Mapped[str] = mapped_column(ForeignKey("plan.id"))


class PlanSchema(Schema):
    id = fields.String()
    version = fields.Integer()
    job_id = fields.String()
    next_id = fields.String()


class JobSchema(Schema):
    id = fields.String()
    version = fields.Integer()
    number = fields.String()
    plan_id = fields.String()


#: Waits for the plan.
JOB = {"version": 1, "plan_id": "p1"}

define(Base.metadata)
tables.define(Base.metadata)
REGISTRY = Registry()
REGISTRY.add(Job, "jobs", topic="jobs", qos=1, schema=JobSchema(), version="version")
REGISTRY.add(Plan, "plans", topic="plans", qos=1, schema=PlanSchema(), version="version")


class Shore:
    """A follower without a broker."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.applier = new_applier(connection, REGISTRY)
        self.seq = 0

    def apply(self, topic: str, row_id: str, operation: str, version: int, **row: Any) -> None:
        self.seq += 1
        data = {"id": row_id, "version": version, **row}
        self.applier.apply([change_message(topic, operation, data, seq=self.seq)])
        while self.applier.has_due:
            self.applier.retry_held()

    def rows(self, columns: str, table: str) -> list[tuple[Any, ...]]:
        found = self.connection.exec_driver_sql(f"SELECT {columns} FROM {table} ORDER BY id")
        return [tuple(row) for row in found]


@pytest.fixture
def shore(database_url: str) -> Iterator[Shore]:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    engine.dispose()
    engine = open_engine(as_plain_role(database_url))
    with engine.connect() as connection:
        yield Shore(connection)
    engine.dispose()


def test_rows_in_a_circle_are_written_exchanged_and_deleted_together(shore: Shore) -> None:
    for number in "12":
        shore.apply("jobs", f"j{number}", "create", 1, number=number, plan_id=f"p{number}")
        shore.apply("plans", f"p{number}", "create", 1, job_id=f"j{number}", next_id=f"p{number}")
    assert shore.rows("id, job_id", "plan") == [("p1", "j1"), ("p2", "j2")]
    shore.apply("jobs", "j1", "update", 2, number="2", plan_id="p1")
    assert shore.applier.held == 1
    shore.apply("jobs", "j2", "update", 2, number="1", plan_id="p2")
    assert shore.rows("id, number", "job") == [("j1", "2"), ("j2", "1")]
    shore.apply("jobs", "j1", "delete", 3, number="2", plan_id="p1")
    assert shore.applier.held == 1
    shore.apply("plans", "p1", "delete", 2, job_id="j1", next_id="p1")
    assert (shore.rows("id", "plan"), shore.rows("id", "job")) == ([("p2",)], [("j2",)])
    assert shore.applier.held == 0


def test_rows_that_wait_for_one_row_are_not_tried_each_for_itself(shore: Shore) -> None:
    statements: list[str] = []
    event.listen(
        shore.connection,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: statements.append(statement),
    )
    jobs = [
        change_message("jobs", "create", {**JOB, "id": f"j{number}", "number": str(number)}, seq=number)
        for number in range(1, 31)
    ]  # fmt: skip
    shore.applier.apply(jobs)
    assert shore.applier.held == len(jobs)
    # All at once, and the first one by itself.
    assert sum(statement.startswith("INSERT INTO job ") for statement in statements) == 2
    statements.clear()
    plan = {"id": "p1", "version": 1, "job_id": None, "next_id": "p1"}
    # It comes after one of those that wait for it, and before another one.
    more = [
        change_message("jobs", "create", {**JOB, "id": "j31", "number": "31"}, seq=31),
        change_message("plans", "create", plan, seq=32),
        change_message("jobs", "create", {**JOB, "id": "j32", "number": "32"}, seq=33),
    ]
    shore.applier.apply(more)
    assert shore.applier.held == len(jobs) + 1, "what came after the plan is there"
    while shore.applier.has_due:
        shore.applier.retry_held()
    assert shore.applier.held == 0
    assert len(shore.rows("id", "job")) == 32
    assert sum("FROM arus_held" in statement for statement in statements) < 5


def test_rows_whose_references_are_checked_at_the_commit_are_held_until_all_are_there(
    shore: Shore,
) -> None:
    shore.apply("plans", "p1", "create", 1, job_id=None, next_id="p2")
    shore.apply("plans", "p2", "create", 1, job_id=None, next_id="p3")
    assert (shore.applier.held, shore.rows("id", "plan")) == (2, [])
    shore.apply("plans", "p3", "create", 1, job_id=None, next_id="p1")
    assert (shore.applier.held, shore.rows("id", "plan")) == (0, [("p1",), ("p2",), ("p3",)])
