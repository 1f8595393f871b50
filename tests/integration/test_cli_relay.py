"""`flask sync relay` sends what was committed, without a web server."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.gunicorn_app import ROOT, GunicornApp, clean_environment, run_flask
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import PATIENCE, eventually, free_port
from tools.processes import Child

pytestmark = pytest.mark.slow

#: An application of somebody who has read the README: logging is not configured, and its name is its own.
PLANT = """
import os
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from arus import ReliableSync

db, sync = SQLAlchemy(), ReliableSync()


class Valve(db.Model):
    id = db.Column(db.String(36), primary_key=True)
    version = db.Column(db.Integer, nullable=False)
    __mapper_args__ = {"version_id_col": version}


sync.register(Valve, "valves", schema=Schema.from_dict({"id": fields.Str()}))


def create_app():
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
    db.init_app(app)
    sync.init_app(app, db)
    app.cli.command("make-tables")(db.create_all)

    @app.cli.command("open")
    def open_valve():
        db.session.add(Valve(id=os.urandom(4).hex()))
        db.session.commit()

    return app
"""


class Plant:
    """The application in a directory, by its commands."""

    def __init__(self, directory: Path, broker_port: int, **settings: str) -> None:
        self.directory = directory
        (directory / "plant.py").write_text(PLANT)
        self.settings: Mapping[str, str] = {
            "DATABASE_URL": f"sqlite:///{directory}/plant.sqlite",
            "LOCAL_MODE": "true",
            "PYTHONPATH": str(ROOT),
            "MQTT_BROKER_URL": f"mqtt://127.0.0.1:{broker_port}",
            "MQTT_RECONNECT_PERIOD": "0.2",
            **settings,
        }
        self.children: list[Child] = []
        assert self.run("make-tables") == 0

    def start(self, *words: str, log: str = "log") -> Child:
        """Start one of its commands."""
        argv = [str(Path(sys.executable).with_name("flask")), "--app", "plant", *words]
        with (self.directory / log).open("wb") as output:
            child = Child(
                words[0],
                argv,
                env=clean_environment(**self.settings),
                cwd=self.directory,
                output=output,
            )
        self.children.append(child)
        return child

    def run(self, *words: str, log: str = "log") -> int:
        """Run one of its commands; its exit code."""
        return self.start(*words, log=log).wait(60)

    def log(self, name: str = "log") -> str:
        """What the command said."""
        return (self.directory / name).read_text()

    def close(self) -> None:
        for child in self.children:
            child.kill()


@pytest.fixture
def start_plant(tmp_path: Path) -> Iterator[Callable[..., Plant]]:
    made: list[Plant] = []

    def start(port: int, **settings: str) -> Plant:
        made.append(Plant(tmp_path, port, **settings))
        return made[-1]

    yield start
    for plant in made:
        plant.close()


def test_it_relays_until_it_is_told_to_stop(
    start_plant: Callable[..., Plant], mosquitto: Mosquitto, subscriber: Subscriber
) -> None:
    plant = start_plant(mosquitto.port)
    relay = plant.start("sync", "relay", log="relay")
    eventually(lambda: "connected to mqtt://" in plant.log("relay"), 30, message="it connects")
    assert plant.run("open") == 0
    eventually(lambda: subscriber.changes("valves"), message="the change arrives")
    told_at = time.monotonic()
    relay.send(signal.SIGTERM)
    assert relay.wait(20) == 0
    assert time.monotonic() - told_at < 2 * PATIENCE
    statuses = [m.json for m in subscriber.messages if m.topic.endswith("system/status")]
    assert statuses[-1]["status"] == "offline"


def test_once_it_ends_when_the_queue_is_empty(
    start_plant: Callable[..., Plant], mosquitto: Mosquitto, subscriber: Subscriber
) -> None:
    plant = start_plant(mosquitto.port)
    assert plant.run("sync", "relay", "--once") == 0
    assert plant.log() == "", "there was nothing to do"
    for _ in range(2):
        assert plant.run("open") == 0
    assert plant.run("sync", "relay", "--once") == 0
    eventually(lambda: len(subscriber.changes("valves")) == 2, message="both arrive")


def test_once_it_says_what_waits_when_its_time_is_up(start_plant: Callable[..., Plant]) -> None:
    plant = start_plant(free_port())
    assert plant.run("open") == 0
    assert plant.run("sync", "relay", "--once", "--timeout", "0.7") == 1
    said = plant.log().splitlines()[-1]
    assert said.startswith("Error: 1 change waits: mqtt://127.0.0.1:"), said
    assert "connection refused" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_standby_ends_when_told_and_takes_over_when_it_may(
    start_plant: Callable[..., Plant], mosquitto: Mosquitto, number: signal.Signals
) -> None:
    plant = start_plant(mosquitto.port)
    first = plant.start("sync", "relay", log="first")
    eventually(lambda: "connected to mqtt://" in plant.log("first"), 30, message="it connects")
    standby = plant.start("sync", "relay", log="standby")
    eventually(lambda: "standing by" in plant.log("standby"), 30, message="it stands by")
    standby.send(number)
    assert standby.wait(2 * PATIENCE) == 0
    plant.start("sync", "relay", log="second")
    eventually(lambda: "standing by" in plant.log("second"), 30, message="it stands by")
    first.kill()
    eventually(lambda: "connected to mqtt://" in plant.log("second"), 30, message="it takes over")


def test_ashore_it_refuses_in_one_line(start_plant: Callable[..., Plant]) -> None:
    plant = start_plant(free_port(), LOCAL_MODE="false")
    assert plant.run("sync", "relay") == 1
    assert plant.log() == "Error: LOCAL_MODE is false: nothing is captured, and nothing is sent\n"


def test_texts_name_the_application_as_it_was_given(start_plant: Callable[..., Plant]) -> None:
    plant = start_plant(free_port(), FLASK_APP="plant")
    assert plant.run("sync", "queue", "retry", "--help") == 0
    assert "flask --app plant sync queue retry --all" in plant.log()
    assert plant.run("sync", "doctor") == 1
    assert "wsgi" not in plant.log()
    argv = [str(Path(sys.executable).with_name("flask")), "sync", "relay", "--help"]
    with (plant.directory / "help").open("wb") as output:
        child = Child(
            "help",
            argv,
            env=clean_environment(**plant.settings),
            cwd=plant.directory,
            output=output,
        )
    assert child.wait(30) == 0
    assert "  flask sync relay --once\n" in plant.log("help")


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_beside_a_server_it_waits_until_the_server_has_sent_all(
    start_app: Callable[..., GunicornApp], migrated_database_url: str, mosquitto: Mosquitto
) -> None:
    app = start_app(workers=1)
    owner = app.wait_connected()
    with closing(app):
        app.post("/api/crew", {"name": "Maria"})
        settings = {
            "SECRET_KEY": "for-tests-only-and-long-enough",
            "LOCAL_MODE": "true",
            "DATABASE_URL": migrated_database_url,
            "MQTT_BROKER_URL": mosquitto.url,
        }
        done = run_flask("sync", "relay", "--once", "--timeout", "20", settings=settings)
        assert done.returncode == 0, done.stderr
        assert app.owner_pid() == owner
