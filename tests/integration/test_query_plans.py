"""No statement grows slow with the log or the tables: the database says itself how it would find the rows."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Connection, Engine, TextClause, create_engine, event, insert, make_url, text
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.dialects.sqlite import pysqlite

import arus.follower.sql
import arus.outbox.sql
from arus.outbox.sql.entries import rows_without_entry
from arus.outbox.tables import define
from blueprints.work_orders.models import WorkOrder
from extensions import db

#: Tables that grow with what is written; the others hold a handful of rows, or a bounded number.
LARGE = frozenset({
    "arus_change", "arus_row", "arus_proposal",
    "work_orders", "alerts", "equipment", "crew", "maintenance_schedules",
})  # fmt: skip
#: Indexes of only those entries that wait for something: to read all of these is to read what is wanted.
OF_WHAT_WAITS = ("ix_arus_change_unnumbered", "ix_arus_change_outcome")
#: A search for all that the log has of an entity is as long as the log.
OF_ONE_ENTITY = ("ix_arus_change_row (entity=?)", "ix_arus_change_lane (topic=?)")
#: Statements that may read a large table from end to end, and why.
READ_ALL = {
    "arus.outbox.sql.changes.ENTRIES": "the doctor counts, when a person asks it to",
    "arus.outbox.sql.changes.COMMITTED_AFTER": "the doctor compares all times with the clock, when asked to",
    "arus.outbox.sql.changes.OLDEST_DELIVERED": "ends at the first row that it finds, and the oldest come first",
    "arus.follower.sql.report.ROWS": "a report to a person counts a follower's rows",
    "arus.outbox.sql.changes.SIZE": "ends at the 10,001st entry",
    "arus.outbox.sql.changes.COUNTS": "the sync page counts a log of up to 10,000 entries",
}
CHANGES = 2_000
NUMBERED = CHANGES - 20


def statements() -> dict[str, TextClause]:
    """Each statement on a table of ours, under the name that its module has for it.

    No other module holds any, and none is without a name: `tests/unit/test_sql_in_one_place.py`.
    """
    found = {}
    for place in (arus.outbox.sql, arus.follower.sql):
        for module in pkgutil.iter_modules(place.__path__, f"{place.__name__}."):
            for name, value in vars(importlib.import_module(module.name)).items():
                statement = text(value) if isinstance(value, str) else value
                public = name.isupper() and not name.startswith("_")
                if public and isinstance(statement, TextClause) and "arus_" in statement.text:
                    found[f"{module.name}.{name}"] = statement
    return found


@pytest.fixture
def filled(migrated_database_url: str) -> Iterator[Connection]:
    """A database with a log in it."""
    engine: Engine = create_engine(make_url(migrated_database_url))
    change = define(db.metadata).change
    rows = [
        {
            "message_id": f"{1_795_334_400_000 + number}_{number:09d}",
            "entity": "work_orders",
            "topic": "work_orders",
            "qos": 1,
            "operation": "update",
            "row_id": f"row-{number % 100}",
            "version": number,
            "committed_at": 1_795_334_400_000 + number,
            "data": b'{"id":"1"}',
            "seq": number + 1 if number < NUMBERED else None,
            "previous_seq": number if number < NUMBERED else None,
            "outcome": "dropped" if number % 100 == 0 else None,
        }
        for number in range(CHANGES)
    ]
    with engine.begin() as connection:
        connection.execute(insert(change), rows)
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("ANALYZE arus_change"))
            # Small tables are read from end to end for good reason: what is left has no index to use.
            connection.execute(text("SET enable_seqscan = off"))
            connection.execute(text("SET plan_cache_mode = force_generic_plan"))
        yield connection
    engine.dispose()


def plan_of(connection: Connection, statement: TextClause) -> str:
    """How the database would carry `statement` out, whatever its parameters are."""
    values = {
        name: ["x"] if parameter.expanding else None
        for name, parameter in statement._bindparams.items()
    }
    if connection.dialect.name == "sqlite":
        dialect = pysqlite.dialect(paramstyle="named")
        compiled = statement.bindparams(**values).compile(
            dialect=dialect, compile_kwargs={"render_postcompile": True}
        )
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", compiled.params)
        return "\n".join(row.detail for row in rows)
    compiled = statement.bindparams(**values).compile(
        dialect=asyncpg.dialect(), compile_kwargs={"render_postcompile": True}
    )
    sql = str(compiled).replace("%%", "%")
    connection.exec_driver_sql(f"PREPARE plan AS {sql}".replace("%", "%%"))
    nulls = ", ".join(["NULL"] * len(compiled.positiontup or ()))
    execute = f"EXECUTE plan({nulls})" if nulls else "EXECUTE plan"
    lines = connection.exec_driver_sql(f"EXPLAIN (COSTS OFF) {execute}").scalars().all()
    connection.exec_driver_sql("DEALLOCATE plan")
    return "\n".join(lines)


def reads_from_end_to_end(plan: str, statement: str) -> list[str]:
    """The steps of a plan that read a large table whole."""
    names = re.findall(r"(?:FROM|JOIN|UPDATE)\s+(\w+)(?:\s+(?:AS\s+)?(\w+))?", statement)
    large = {called for name, alias in names if name in LARGE for called in (name, alias)}
    found = []
    for step in plan.splitlines():
        scan = re.match(r"\s*SCAN (\w+)|.*Seq Scan on (\w+)", step)
        if scan and (scan[1] or scan[2]) in large and not any(i in step for i in OF_WHAT_WAITS):
            found.append(step.strip())
        if step.endswith(OF_ONE_ENTITY):
            found.append(step.strip())
    return found


def test_each_statement_finds_its_rows_by_an_index(filled: Connection) -> None:
    found = {}
    for name, statement in statements().items():
        if "FOR UPDATE" in statement.text and filled.dialect.name == "sqlite":
            continue  # a lock of PostgreSQL's alone
        plan = plan_of(filled, statement)
        if name not in READ_ALL and reads_from_end_to_end(plan, str(statement)):
            found[name] = plan
    assert not found, "\n\n".join(f"{name}:\n{plan}" for name, plan in found.items())


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("OWN", "vessel_id=? AND entity=? AND row_id>?"),
        ("CLAIMS", "vessel_id=? AND entity=?"),
        ("ROWS", "vessel_id=? AND entity=?"),
        ("HELD", "vessel_id=? AND entity=?"),
        ("OTHERS", "entity=? AND row_id=?"),
        ("OWNED", "entity=? AND row_id=?"),
        ("PROPOSALS", "state=? AND entity=?"),
    ],
)
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_an_audit_reads_the_rows_of_one_vessel_alone(
    filled: Connection, name: str, index: str
) -> None:
    plan = plan_of(filled, statements()[f"arus.follower.sql.comparison.{name}"])
    assert f"({index}" in plan, plan


def test_a_row_without_an_entry_is_looked_up_in_the_index_of_rows(filled: Connection) -> None:
    statement = rows_without_entry(WorkOrder.id, "work_orders")
    options = {"literal_binds": True}
    query = str(statement.compile(dialect=filled.dialect, compile_kwargs=options))
    word = "QUERY PLAN " if filled.dialect.name == "sqlite" else ""
    rows = filled.exec_driver_sql(f"EXPLAIN {word}{query}").all()
    plan = "\n".join(str(row) for row in rows)
    assert "ix_arus_change_row" in plan, plan


def test_what_may_read_a_whole_table_is_still_there() -> None:
    assert set(READ_ALL) <= set(statements())


def test_each_group_of_statements_is_looked_at() -> None:
    groups = {name.rpartition(".")[0] for name in statements()}
    wanted = {f"arus.outbox.sql.{name}" for name in arus.outbox.sql.__all__} - {
        "arus.outbox.sql.database"  # asks of no table
    }
    assert groups == wanted | {f"arus.follower.sql.{name}" for name in arus.follower.sql.__all__}


def test_a_statement_without_an_index_would_be_found(filled: Connection) -> None:
    statement = text("SELECT row_id FROM arus_change c WHERE c.version = :version")
    assert reads_from_end_to_end(plan_of(filled, statement), str(statement))


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_statement_is_judged_by_each_name_that_it_gives_a_table(filled: Connection) -> None:
    statement = text(
        "SELECT n.row_id FROM arus_change c JOIN arus_change n ON n.id = c.id WHERE c.version = :version"
    )
    assert reads_from_end_to_end(plan_of(filled, statement), str(statement))


@pytest.mark.parametrize(
    "query", ["", "?limit=200", "?status=open", "?equipmentId=6f1c3a52-4f0e-4d8c-9b7e-2f0a1d3c5b7e"]
)
def test_a_list_of_rows_is_read_in_the_order_of_an_index(
    app: Flask, client: FlaskClient, query: str
) -> None:
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        asked.append((sql, parameters))

    with app.app_context():
        event.listen(db.engine, "before_cursor_execute", note)
        assert client.get(f"/api/work-orders{query}").status_code == 200
        event.remove(db.engine, "before_cursor_execute", note)
        lists = [each for each in asked if "FROM work_orders" in each[0]]
        assert lists
        with db.engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SET enable_seqscan = off"))
                connection.execute(text("SET enable_sort = off"))
            for sql, parameters in lists:
                word = "QUERY PLAN " if connection.dialect.name == "sqlite" else ""
                rows = connection.exec_driver_sql(f"EXPLAIN {word}{sql}", parameters).all()
                plan = "\n".join(str(row) for row in rows)
                assert "TEMP B-TREE" not in plan, plan
                assert "Sort" not in plan, plan
                assert "ix_work_orders" in plan, plan
