"""The vessel app in this process, on a real database of each kind, with a broker out of reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from extensions import db, sync
from tests.support.waiting import free_port


@pytest.fixture
def make_app() -> Iterator[Callable[..., Flask]]:
    """Makes apps on a database URL; they are closed after the test."""
    made: list[Flask] = []

    def make(database_url: str, **config: Any) -> Flask:
        app = create_app(
            {
                "SECRET_KEY": "for-tests-only",
                "DATABASE_URL": database_url,
                "LOCAL_MODE": "true",
                "MQTT_BROKER_URL": f"mqtt://127.0.0.1:{free_port()}",
                # One attempt, and then quiet.
                "MQTT_RECONNECT_PERIOD": "3600",
                **config,
            }
        )
        made.append(app)
        return app

    yield make
    for app in made:
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


@pytest.fixture
def equipment_id(client: FlaskClient) -> str:
    """The id of a piece of equipment."""
    answer = client.post("/api/equipment", json={"name": "Fire pump No.1", "type": "pump"})
    return str(answer.get_json()["id"])
