"""What the owner runs on the driver's own connection ends as what SQLAlchemy runs: in its transaction, with its errors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import Connection

from arus.database import open_engine, transaction, translated
from arus.errors import LogUnavailableError
from arus.outbox import sql
from arus.outbox.driver import DriverStatements, read_rows
from arus.outbox.log import ChangeLog
from tests.support.small_app import db, small_app, sync

KEY = {"entity_type": "hulls", "operation": "create", "qos": "1"}


@pytest.fixture
def app(small_database_url: str) -> Iterator[Flask]:
    with small_app(small_database_url) as app:
        yield app


@pytest.fixture
def connection(app: Flask) -> Iterator[Connection]:
    engine = open_engine(db.engine.url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def counted(connection: Connection) -> list[tuple[str, int]]:
    return sorted((row.name, row.value) for row in connection.execute(sql.counters.ALL))


def test_a_statement_runs_once_for_each_of_its_arguments(connection: Connection) -> None:
    driver = DriverStatements(connection)
    with transaction(connection):
        driver.run(sql.counters.ADD, {"name": "a", "value": 1, **KEY})
        driver.run_each(sql.counters.ADD, [{"name": "a", "value": 2, **KEY}])
        driver.run_each(
            sql.counters.ADD, [{"name": name, "value": 4, **KEY} for name in ("a", "b")]
        )
        driver.run_each(sql.counters.ADD, [])
    assert counted(connection) == [("a", 7), ("b", 4)]
    rows = driver.rows(sql.counters.ALL, {})
    assert sorted((row[0], row[-1]) for row in rows) == [("a", 7), ("b", 4)]


def test_it_is_rolled_back_with_the_transaction(connection: Connection) -> None:
    driver = DriverStatements(connection)

    def fail() -> None:
        with transaction(connection):
            driver.run(sql.counters.ADD, {"name": "a", "value": 1, **KEY})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert counted(connection) == []


def test_what_the_driver_refuses_is_an_error_of_the_log(connection: Connection) -> None:
    driver = DriverStatements(connection)
    with pytest.raises(LogUnavailableError), transaction(connection):
        driver.run(sql.counters.ADD, {"name": None, "value": 1, **KEY})
    with transaction(connection):  # the connection can be used further
        driver.run(sql.counters.ADD, {"name": "a", "value": 1, **KEY})
    assert counted(connection) == [("a", 1)]


def test_a_statement_with_a_list_is_left_to_sqlalchemy(connection: Connection) -> None:
    with pytest.raises(AssertionError, match="no lists"):
        DriverStatements(connection).rows(sql.pruning.HIGHEST_SEQ, {"ids": [1]})


@pytest.mark.parametrize("database_kind", ["postgresql"])
def test_sqlalchemy_knows_of_a_connection_that_the_driver_has_lost(connection: Connection) -> None:
    owner = ChangeLog(connection, vessel_id=None)
    pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
    with db.engine.connect() as other:
        other.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    with pytest.raises(LogUnavailableError):
        owner.unnumbered(1)
    assert connection.invalidated


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_health_is_read_with_two_statements_on_one_connection(app: Flask) -> None:
    asked: list[str] = []
    sync.runtime().health()
    with db.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
    driver.set_trace_callback(asked.append)
    checkouts: list[object] = []
    sa.event.listen(db.engine, "checkout", lambda *given: checkouts.append(given))
    assert sync.runtime().health()["status"] == "degraded"
    assert len(asked) == 2
    assert len(checkouts) == 1


def test_a_read_by_the_driver_fails_as_one_by_sqlalchemy(app: Flask) -> None:
    with db.engine.connect() as connection:
        connection.execute(sa.text("ALTER TABLE arus_session RENAME TO elsewhere"))
        connection.commit()
        with pytest.raises(sa.exc.DBAPIError) as usual:
            connection.execute(sql.session.HEAD)
        connection.rollback()
        with pytest.raises(sa.exc.DBAPIError) as found:
            read_rows(connection, sql.session.HEAD, {})
    assert type(found.value) is type(usual.value)
    assert str(found.value) == str(usual.value)


@pytest.mark.parametrize("database_kind", ["postgresql"])
def test_a_read_by_the_driver_tells_sqlalchemy_of_a_lost_connection(app: Flask) -> None:
    with db.engine.connect() as connection, db.engine.connect() as other:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        other.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        with pytest.raises(sa.exc.OperationalError):
            read_rows(connection, sql.session.HEAD, {})
        assert connection.invalidated


def test_errors_of_others_are_left_alone(connection: Connection) -> None:
    with pytest.raises(KeyError), translated(connection):
        raise KeyError
