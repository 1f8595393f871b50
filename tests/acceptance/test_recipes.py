"""The recipes of docs/plugin.md work as they stand there, on the README's application."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.support import http
from tests.support.gunicorn_app import ROOT, clean_environment
from tests.support.mosquitto import Mosquitto
from tests.support.pages import PLUGIN, README, blocks
from tests.support.postgres import PostgresServer
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually, free_port
from tools.processes import Child

CODE = blocks(README, "Use it in your own application", "python")[0].code


class Plant:
    """The README's application in a directory of its own."""

    def __init__(self, directory: Path, broker: Mosquitto, code: str = CODE) -> None:
        self.directory = directory
        self.write("plant.py", code)
        self.environment = clean_environment(
            PYTHONPATH=str(ROOT),
            MQTT_BROKER_URL=broker.url,
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        )

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def sh(self, script: str) -> str:
        """What a script prints; fails with its output when it fails."""
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def make_tables(self) -> None:
        self.sh("flask --app plant init-db")

    @contextmanager
    def running(self, *argv: str) -> Iterator[Path]:
        """Run a program; the path of its log."""
        path = self.directory / "log"
        with path.open("wb") as log:
            program = str(Path(sys.executable).with_name(argv[0]))
            child = Child(
                argv[0],
                [program, *argv[1:]],
                env=self.environment,
                cwd=self.directory,
                output=log,
            )
        try:
            yield path
            assert child.stop(20) == 0
        finally:
            child.kill()
            print(path.read_text())


@pytest.fixture
def plant(tmp_path: Path, mosquitto: Mosquitto) -> Plant:
    return Plant(tmp_path, mosquitto)


def opened(subscriber: Subscriber) -> set[str]:
    return {change["data"]["id"] for change in subscriber.changes("valves")}


def test_migrations(tmp_path: Path, mosquitto: Mosquitto) -> None:
    bound = "    sync.init_app(app, db)  # validates and registers; opens nothing\n"
    assert bound in CODE
    migrated = "from flask_migrate import Migrate\n" + CODE.replace(
        bound, f"{bound}    Migrate(app, db)\n"
    )
    plant = Plant(tmp_path, mosquitto, migrated)
    (block,) = blocks(PLUGIN, "Migrations", "sh")
    plant.sh(block.code)
    plant.sh("flask --app plant sync status")
    with closing(sqlite3.connect(tmp_path / "instance" / "plant.db")) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    assert {"valve", "arus_change", "arus_session"} <= tables


def test_an_application_that_has_rows_already(plant: Plant, subscriber: Subscriber) -> None:
    plant.make_tables()
    with closing(sqlite3.connect(plant.directory / "instance" / "plant.db")) as connection:
        connection.execute("INSERT INTO valve VALUES ('v-0', 1, 1)")
        connection.commit()
    (block,) = blocks(PLUGIN, "An application that has rows already", "sh")
    assert "valves: 1 sent (snapshot)" in plant.sh(block.code)
    eventually(
        lambda: any('"v-0"' in message.payload for message in subscriber.messages),
        message="the row arrives",
    )


def test_celery_cron_and_scripts(plant: Plant, subscriber: Subscriber) -> None:
    heading = "Celery, cron and scripts"
    (script,), (commands,) = blocks(PLUGIN, heading, "python"), blocks(PLUGIN, heading, "sh")
    service, job = (line.partition("#")[0].split() for line in commands.code.splitlines())
    plant.make_tables()
    plant.write("script.py", script.code)
    plant.sh("python script.py")
    plant.sh(" ".join(job))
    eventually(lambda: opened(subscriber) == {"v-1", "v-2"}, message="both changes arrive")
    with plant.running(*service) as log:
        eventually(lambda: "connected to mqtt://" in log.read_text(), 30, message="it connects")


def test_gunicorn_and_logging(tmp_path: Path, mosquitto: Mosquitto, subscriber: Subscriber) -> None:
    (logging,), (hooks,) = blocks(PLUGIN, "Logging", "python"), blocks(PLUGIN, "gunicorn", "python")
    plant = Plant(tmp_path, mosquitto, logging.code + CODE)
    plant.write("gunicorn.conf.py", hooks.code)
    plant.make_tables()
    port = free_port()
    with plant.running("gunicorn", "-b", f"127.0.0.1:{port}", "plant:create_app()") as log:
        eventually(lambda: log.read_text().count("the sync has started") == 2, 30, message="start")
        eventually(lambda: "connected to mqtt://" in log.read_text(), 30, message="it connects")
        assert http.request(port, "POST", "/valves/v-1/open", None, None, 30).status == 200
        eventually(lambda: opened(subscriber) == {"v-1"}, message="the change arrives")
    with_nothing_left = tmp_path / "instance" / "plant.db-wal"
    assert not with_nothing_left.exists() or not with_nothing_left.stat().st_size


def test_backup(plant: Plant) -> None:
    plant.make_tables()
    (block,) = blocks(PLUGIN, "Backup, copy and move", "sh")
    plant.sh(block.code.replace("/media/usb", str(plant.directory)))
    with closing(sqlite3.connect(plant.directory / "plant.db")) as connection:
        assert connection.execute("SELECT count(*) FROM arus_change").fetchone() == (0,)


@pytest.mark.postgresql
def test_a_postgresql_schema(
    plant: Plant, subscriber: Subscriber, postgres_server: PostgresServer
) -> None:
    name = postgres_server.create_database()
    url = postgres_server.url(name)
    (block,) = blocks(PLUGIN, "A PostgreSQL schema", "sql")
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA plant")
        role = f"CURRENT_USER IN DATABASE {name} SET"
        connection.execute(block.code.replace("plant IN DATABASE ship SET", role).encode())
    plant.write("plant.py", CODE.replace("sqlite:///plant.db", url))
    plant.make_tables()
    script = blocks(PLUGIN, "Celery, cron and scripts", "python")[0].code
    plant.write("script.py", script)
    plant.sh("python script.py; flask --app plant sync relay --once")
    eventually(lambda: opened(subscriber) == {"v-1", "v-2"}, message="both changes arrive")
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        found = connection.execute("SELECT count(*) FROM plant.arus_change").fetchone()
    assert found == (2,)
