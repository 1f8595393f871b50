"""`flask sync drill`: an outage on a copy; the database itself stays as it is, byte by byte."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from flask import Flask
from msgspec.structs import replace
from paho.mqtt import publish
from sqlalchemy import text

from blueprints.crew.service import crew
from extensions import db
from tests.support.gunicorn_app import ROOT, clean_environment
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import PATIENCE, eventually
from tools.processes import Child

SECRET = "for-tests-only-and-long-enough"


#: What a drill finds does not depend on the database.
ON_SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


@pytest.fixture
def worked(app: Flask) -> Flask:
    """A ship with a log: 20 people come aboard, and each is changed four times."""
    with app.app_context():
        ids = [crew.create({"name": f"Sailor {number}"}).row.id for number in range(20)]
        for round_ in range(4):
            for row_id in ids:
                crew.update(row_id, {"notes": f"round {round_}"})
        db.session.remove()
    return app


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies are made."""
    directory = tmp_path / "copies"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


def database_of(app: Flask) -> Path:
    with app.app_context():
        return Path(str(db.engine.url.database))


def logged(app: Flask) -> Sequence[object]:
    """The change log."""
    with app.app_context():
        return db.session.execute(text("SELECT * FROM arus_change ORDER BY id")).all()


def contents(database: Path) -> list[str]:
    files = sorted(path for path in database.parent.glob(f"{database.name}*") if path.is_file())
    return [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in files if "-shm" not in path.name
    ]


@pytest.mark.slow
@ON_SQLITE
def test_a_drill_says_what_an_outage_costs_and_changes_nothing(worked: Flask, copies: Path) -> None:
    sync = worked.extensions["arus"]
    sync.settings = replace(sync.settings, max_queue_size=100)
    before = contents(database_of(worked))
    result = worked.test_cli_runner().invoke(
        args=["sync", "drill", "--hours", "10", "--changes-per-hour", "50", "--json"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    present, always = found["outcomes"]
    assert (found["changes"], present["maxQueueSize"]) == (500, 100)
    assert present["deepest"] == 100
    assert 0 < present["fullAfterHours"] < 10
    assert present["superseded"] + present["dropped"] > 300
    assert always["settings"] == "MQTT_SUPERSEDE=always"
    assert always["bytesSent"] <= present["bytesSent"]
    assert any("MQTT_MAX_QUEUE_SIZE=" in sentence for sentence in found["findings"])
    assert contents(database_of(worked)) == before
    assert not list(copies.glob("arus-drill-*"))


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_postgresql_database_is_copied_row_by_row(worked: Flask, copies: Path) -> None:
    before = logged(worked)
    result = worked.test_cli_runner().invoke(
        args=["sync", "drill", "--hours", "5", "--changes-per-hour", "50", "--json"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["changes"] == 250
    assert all(one["dropped"] == 0 and one["messages"] > 20 for one in found["outcomes"]), found
    assert logged(worked) == before
    assert not list(copies.glob("arus-drill-*"))


@pytest.mark.slow
@ON_SQLITE
def test_a_given_broker_takes_the_backlog_and_keeps_nothing(
    worked: Flask, copies: Path, mosquitto: Mosquitto
) -> None:
    with Subscriber(mosquitto.port, "arus-drill/#", "vessel/#") as subscriber:
        result = worked.test_cli_runner().invoke(
            args=[
                *("sync", "drill", "--hours", "5", "--changes-per-hour", "50", "--json"),
                *("--broker", mosquitto.url),
            ]
        )
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        present, always = found["outcomes"]
        assert present["measuredDrainSeconds"] > 0
        assert any("The given broker took it in" in sentence for sentence in found["findings"])
        eventually(lambda: len(subscriber.messages) >= present["messages"] + always["messages"])
        assert {message.topic.split("/")[0] for message in subscriber.messages} == {"arus-drill"}
    with Subscriber(mosquitto.port, "arus-drill/#") as late:
        publish.single("arus-drill/last", "now", port=mosquitto.port, qos=1)
        eventually(lambda: late.messages, message="what follows the retained messages")
        assert [message.topic for message in late.messages] == ["arus-drill/last"]


@ON_SQLITE
@pytest.mark.parametrize("url", ["http://broker", "mqtt://"])
def test_a_broker_that_is_none_is_one_line(app: Flask, url: str) -> None:
    result = app.test_cli_runner().invoke(args=["sync", "drill", "--broker", url])
    assert result.exit_code == 1
    assert "is not accepted; it takes mqtt://" in result.output


@ON_SQLITE
def test_a_log_that_is_too_short_is_one_line(app: Flask) -> None:
    result = app.test_cli_runner().invoke(args=["sync", "drill"])
    assert result.exit_code == 1
    assert "the log has 0 changes, and a drill repeats at least 20" in result.output


@pytest.mark.slow
@ON_SQLITE
def test_a_drill_that_is_told_to_end_leaves_no_copy(worked: Flask, copies: Path) -> None:
    database = database_of(worked)
    argv = [sys.executable, "-m", "flask", "--app", "wsgi", "sync", "drill"]
    environment = clean_environment(
        SECRET_KEY=SECRET, DATABASE_URL=f"sqlite:///{database}", TMPDIR=str(copies)
    )
    with (copies.parent / "log").open("wb") as log:
        child = Child(
            "drill",
            [*argv, "--changes-per-hour", "100000"],
            env=environment,
            cwd=ROOT,
            output=log,
        )
    eventually(lambda: list(copies.glob("arus-drill-*/copy-*")), 30, message="a copy")
    child.send(signal.SIGTERM)
    assert child.wait(10 * PATIENCE) != 0
    assert not list(copies.glob("arus-drill-*"))
    child.kill()
