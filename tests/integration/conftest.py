"""The vessel app in this process, on a real database of each kind, with a broker out of reach."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Connection, MetaData

from app import create_app
from arus.database import open_engine
from arus.outbox.tables import define
from extensions import db, sync
from tests.support.mosquitto import Mosquitto
from tests.support.postgres import PostgresServer
from tests.support.scripted_broker import ScriptedBroker
from tests.support.vessel import StartVessel, Vessel
from tests.support.waiting import free_port


@pytest.fixture(scope="session")
def _small_postgres_url(postgres_server: PostgresServer) -> str:
    return postgres_server.url(postgres_server.create_database())


@pytest.fixture
def small_database_url(database_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A database for `small_app` on SQLite and on PostgreSQL; the latter is one for all tests."""
    if database_kind == "sqlite":
        return f"sqlite:///{tmp_path}/small.sqlite"
    url = str(request.getfixturevalue("_small_postgres_url"))
    server: PostgresServer = request.getfixturevalue("postgres_server")
    server.end_transactions(url.rpartition("/")[2])
    return url


@pytest.fixture
def log(database_url: str) -> Iterator[Connection]:
    """An empty log."""
    metadata = MetaData()
    define(metadata)
    engine = open_engine(database_url)
    metadata.create_all(engine)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def make_app() -> Iterator[Callable[..., Flask]]:
    """Makes apps on a database URL; they are closed after the test."""
    with ExitStack() as stack:
        yield lambda database_url, **config: stack.enter_context(_app(database_url, **config))


@contextmanager
def _app(database_url: str, **config: Any) -> Iterator[Flask]:
    app = create_app(
        {
            "SECRET_KEY": "for-tests-only-and-long-enough",
            "DATABASE_URL": database_url,
            "LOCAL_MODE": "true",
            "MQTT_BROKER_URL": f"mqtt://127.0.0.1:{free_port()}",
            # One attempt, and then quiet.
            "MQTT_RECONNECT_PERIOD": "3600",
            **config,
        }
    )
    try:
        yield app
    finally:
        sync.stop(app)
        with app.app_context():
            db.engine.dispose()


@pytest.fixture
def app(make_app: Callable[..., Flask], migrated_database_url: str) -> Flask:
    """The app on a migrated database."""
    return make_app(migrated_database_url)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client of the app."""
    return app.test_client()


@pytest.fixture(scope="session")
def _common_app(
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    _migrated: Callable[[str], str],
) -> Iterator[Callable[[str], Flask]]:
    """Returns the app that all tests share, on each kind of database."""
    with ExitStack() as stack:

        @cache
        def app_on(kind: str) -> Flask:
            if kind == "sqlite":
                place = tmp_path_factory.mktemp("common") / "arus.sqlite"
                shutil.copy(_migrated(kind), place)
                return stack.enter_context(_app(f"sqlite:///{place}"))
            server: PostgresServer = request.getfixturevalue("postgres_server")
            url = server.url(server.create_database(_migrated(kind)))
            return stack.enter_context(_app(url))

        yield app_on


@pytest.fixture
def refused(database_kind: str, _common_app: Callable[[str], Flask]) -> FlaskClient:
    """A client of one app for all tests: for requests that are refused, and so leave it as it is."""
    return _common_app(database_kind).test_client()


@pytest.fixture
def equipment_id(client: FlaskClient) -> str:
    """The id of a piece of equipment."""
    answer = client.post("/api/equipment", json={"name": "Fire pump No.1", "type": "pump"})
    return str(answer.get_json()["id"])


@pytest.fixture
def start_vessel(
    migrated_database_url: str, caplog: pytest.LogCaptureFixture
) -> Iterator[StartVessel]:
    """Starts the relay on a migrated database: the broker's URL, and settings; stopped after the test."""
    caplog.set_level(logging.INFO, "arus")
    with ExitStack() as stack:

        def start(broker_url: str, **settings: Any) -> Vessel:
            vessel = Vessel(migrated_database_url, MQTT_BROKER_URL=broker_url, **settings)
            return stack.enter_context(vessel)

        yield start


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    """A broker that says what the test makes it say."""
    with ScriptedBroker() as broker:
        yield broker


@pytest.fixture
def shore(migrated_database_url: str, mosquitto: Mosquitto) -> dict[str, str]:
    """The settings of a shore, for a follower in a process of its own."""
    return {
        "SECRET_KEY": "for-tests-only-and-long-enough",
        "LOCAL_MODE": "false",
        "DATABASE_URL": migrated_database_url,
        "MQTT_BROKER_URL": mosquitto.url,
        "MQTT_RECONNECT_PERIOD": "0.5",
    }
