"""The database busy, absent, not migrated; the migrations; the start-up's one line."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from flask import Flask
from sqlalchemy import inspect, text

from app import create_app
from arus.errors import SettingError
from extensions import db
from extensions.config import load_config
from tests.integration.test_api_bad_input import problem
from tests.support.gunicorn_app import clean_environment
from tests.support.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
TABLES = {
    "work_orders", "alerts", "equipment", "crew", "maintenance_schedules",
    "idempotency_keys", "work_order_counters", "arus_change", "alembic_version",
}  # fmt: skip


def test_not_migrated(make_app: Callable[..., Flask], database_url: str) -> None:
    client = make_app(database_url, LOCAL_MODE="false").test_client()
    for answer in (
        client.get("/api/crew"),
        client.post("/api/crew", json={"name": "x"}),
        client.get("/readyz"),
    ):
        assert "flask --app wsgi db upgrade" in problem(answer, 503)["detail"]
    assert client.get("/healthz").status_code == 200


def test_migrated_by_a_newer_version(app: Flask) -> None:
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert "newer version" in problem(app.test_client().get("/readyz"), 503)["detail"]


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_to_listen_on_has_the_brackets_that_a_port_needs(host: str) -> None:
    config = load_config({"SECRET_KEY": "for-tests-only-and-long-enough", "HOST": host})
    assert (config["HOST"], config["ACCESS"]) == ("[::1]", "trusted")


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_locked_database(make_app: Callable[..., Flask], migrated_database_url: str) -> None:
    client = make_app(
        migrated_database_url, DATABASE_BUSY_TIMEOUT="0.3", LOCAL_MODE="false"
    ).test_client()
    key = {"Idempotency-Key": "k"}
    other = sqlite3.connect(migrated_database_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused = client.post("/api/crew", json={"name": "x"}, headers=key)
    assert "nothing was written" in problem(refused, 503)["detail"]
    assert int(refused.headers["Retry-After"]) > 0
    assert client.get("/api/crew").get_json()["items"] == []
    other.execute("ROLLBACK")
    other.close()
    again = client.post("/api/crew", json={"name": "x"}, headers=key)
    assert again.status_code == 201
    assert "Idempotency-Replayed" not in again.headers
    assert len(client.get("/api/crew").get_json()["items"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_lock_that_is_given_up_in_time_only_delays(
    make_app: Callable[..., Flask], migrated_database_url: str
) -> None:
    client = make_app(migrated_database_url, LOCAL_MODE="false").test_client()
    other = sqlite3.connect(
        migrated_database_url.removeprefix("sqlite:///"),
        isolation_level=None,
        check_same_thread=False,
    )
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.5, other.execute, ("ROLLBACK",))
    timer.start()
    begun = time.monotonic()
    assert client.post("/api/crew", json={"name": "x"}).status_code == 201
    assert time.monotonic() - begun > 0.4
    timer.join()
    other.close()


@pytest.mark.parametrize("database_kind", ["postgresql"])
def test_a_postgresql_lock_that_times_out(
    make_app: Callable[..., Flask], migrated_database_url: str
) -> None:
    client = make_app(
        migrated_database_url,
        LOCAL_MODE="false",
        SQLALCHEMY_ENGINE_OPTIONS={"connect_args": {"options": "-c lock_timeout=200"}},
    ).test_client()
    with psycopg.connect(migrated_database_url.replace("+psycopg", "")) as other:
        other.execute("LOCK TABLE crew")
        refused = client.post("/api/crew", json={"name": "x"})
        assert "nothing was written" in problem(refused, 503)["detail"]
    assert client.post("/api/crew", json={"name": "x"}).status_code == 201


@pytest.mark.postgresql
def test_a_server_that_goes_away_and_comes_back(make_app: Callable[..., Flask]) -> None:
    with PostgresServer() as server:
        url = server.url(server.create_database())
        app = make_app(url, LOCAL_MODE="false")
        runner = app.test_cli_runner()
        assert runner.invoke(args=["db", "upgrade"]).exit_code == 0
        client = app.test_client()
        assert client.post("/api/crew", json={"name": "x"}).status_code == 201
        server.stop()
        for answer in (client.get("/readyz"), client.post("/api/crew", json={"name": "y"})):
            assert "not available" in problem(answer, 503)["detail"]
        server.start()
        assert client.get("/readyz").status_code == 200
        assert client.post("/api/crew", json={"name": "z"}).status_code == 201
        assert [row["name"] for row in client.get("/api/crew").get_json()["items"]] == ["z", "x"]
        with app.app_context():
            db.engine.dispose()


def test_a_file_that_is_no_database(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    path = tmp_path / "garbage.sqlite"
    path.write_bytes(b"no database at all, but long enough to have a header" * 100)
    client = make_app(f"sqlite:///{path}", LOCAL_MODE="false").test_client()
    problem(client.get("/api/crew"), 503)
    problem(client.get("/readyz"), 503)


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_sqlite_is_told_to_survive_a_power_cut(app: Flask) -> None:
    with app.app_context(), db.engine.connect() as connection:

        def pragma(name: str) -> object:
            return connection.execute(text(f"PRAGMA {name}")).scalar()

        assert pragma("journal_mode") == "wal"
        assert pragma("synchronous") == 2
        assert pragma("foreign_keys") == 1
        assert pragma("busy_timeout") == 10_000


def test_postgresql_urls_of_any_spelling_take_the_installed_driver() -> None:
    from extensions.config import database_url

    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        url = database_url(f"{scheme}://me:p%40ss@host:5433/ship?sslmode=require")
        assert url == "postgresql+psycopg://me:p%40ss@host:5433/ship?sslmode=require"


# --- migrations


@pytest.mark.slow
def test_migrations_make_what_the_models_say(
    make_app: Callable[..., Flask], database_url: str
) -> None:
    app = make_app(database_url, LOCAL_MODE="false")
    runner = app.test_cli_runner()
    for command in ("upgrade", "check", "downgrade", "upgrade", "check"):
        done = runner.invoke(args=["db", command])
        assert done.exit_code == 0, (command, done.output, done.exception)
    with app.app_context():
        assert set(inspect(db.engine).get_table_names()) >= TABLES


def test_a_database_that_cannot_be_reached_is_said_in_one_line(
    make_app: Callable[..., Flask], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(f"sqlite:///{tmp_path}/not here/arus.sqlite")
    done = app.test_cli_runner().invoke(args=["db", "upgrade"])
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    said = caplog.messages[-1]
    assert said.startswith("Error: the database can't be used (unable to open database file); look")


@pytest.mark.slow
def test_migrations_run_at_the_same_time_once(database_url: str) -> None:
    env = clean_environment(DATABASE_URL=database_url, SECRET_KEY="for-tests-only-and-long-enough")
    command = [str(Path(sys.executable).with_name("flask")), "--app", "wsgi", "db", "upgrade"]
    running = [
        subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


# --- settings


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"SECRET_KEY": ""}, "SECRET_KEY is not set"),
        ({"SECRET_KEY": "a short secret"}, "SECRET_KEY='***' is not accepted"),
        ({"HOST": "on board"}, "HOST='on board' is not accepted"),
        ({"HOST": "[::1"}, "HOST='[::1' is not accepted"),
        ({"HOST": "192.0.2.1"}, "ACCESS is not set; it takes trusted or login"),
        ({"ACCESS": "nobody"}, "ACCESS='nobody' is not accepted"),
        ({"TRUSTED_HOSTS": "a b"}, "TRUSTED_HOSTS='a b' is not accepted"),
        ({"DATABASE_URL": "mysql://me:secret@host/db"}, "DATABASE_URL='mysql://***@host/db'"),
        ({"DATABASE_URL": "postgresql://host:x/db?password=secret"}, "postgresql://host:x/db?***"),
        ({"DATABASE_URL": "nonsense"}, "DATABASE_URL='nonsense'"),
        ({"DATABASE_URL": "sqlite://"}, "DATABASE_URL='sqlite://'"),
        ({"DATABASE_BUSY_TIMEOUT": "long"}, "DATABASE_BUSY_TIMEOUT='long'"),
        ({"MQTT_MAX_QUEUE_SIZE": "ten"}, "MQTT_MAX_QUEUE_SIZE='ten'"),
        ({"LOCAL_MODE": "maybe"}, "LOCAL_MODE='maybe'"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(
    setting: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SECRET_KEY": "for-tests-only-and-long-enough", **setting}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingError) as error:
        create_app()
    said = str(error.value)  # what wsgi.py says: tests/acceptance/test_bad_input.py
    assert says in said
    assert len(said.splitlines()) == 1
    assert "secret" not in said


@pytest.mark.slow
def test_the_upgrade_assigns_names_to_people_and_completes_the_keys_of_present_rows(
    app: Flask,
) -> None:
    runner = app.test_cli_runner()
    assert runner.invoke(args=["db", "downgrade", "0019"]).exit_code == 0
    common = "'{}', 1, '2026-01-01 00:00:00', '2026-01-01 00:00:00'"
    with app.app_context(), db.engine.begin() as connection:
        for statement in (
            (
                "INSERT INTO equipment (id, version, created_at, updated_at, name, type, is_active)"
                f" VALUES ({common.format('e')}, 'ØRSTED 2', 'pump', true)"
            ),
            (
                "INSERT INTO crew (id, version, created_at, updated_at, name, active, on_duty)"
                f" VALUES ({common.format('c')}, 'Åse Lund', true, true)"
            ),
            (
                "INSERT INTO maintenance_schedules (id, version, created_at, updated_at, equipment_id,"
                " scheduled_date, maintenance_type, priority, status, assigned_to) VALUES"
                f" ({common.format('s')}, 'e', '2026-01-01 00:00:00', 'check', 3, 'scheduled', 'ÅSE lund'),"
                f" ({common.format('t')}, 'e', '2026-01-01 00:00:00', 'check', 3, 'scheduled', 'Nobody')"
            ),
        ):
            connection.exec_driver_sql(statement)
    assert runner.invoke(args=["db", "upgrade"]).exit_code == 0
    with app.app_context():
        rows = db.session.execute(
            text("SELECT id, assigned_crew_id, version FROM maintenance_schedules ORDER BY id")
        ).all()
        assert [tuple(row) for row in rows] == [("s", "c", 2), ("t", None, 1)]
        logged = db.session.execute(text("SELECT row_id, operation FROM arus_change")).all()
        assert [tuple(row) for row in logged] == [("s", "update")], "sent as any other change"
        missing = "SELECT count(*) FROM {} WHERE search_key IS NULL"
        for table in ("equipment", "crew", "maintenance_schedules"):
            assert db.session.scalar(text(missing.format(table))) == 0
        assert db.session.scalar(text("SELECT name_key FROM equipment")).endswith("ørsted 2")
