"""Idle vessels are found on a broker that sends no retained messages for a filter with wildcards."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from app import create_app
from arus.inbound import roll_calls
from extensions import db
from tests.support.broker import Broker
from tests.support.follower import FollowerThread
from tests.support.rabbitmq import RabbitMQ
from tests.support.vessel import Vessel
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("database_kind", ["sqlite"])]


def test_a_new_follower_finds_idle_vessels_on_rabbitmq(
    start_broker: Callable[..., Broker],
    migrated_database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(roll_calls, "ANSWERED_WITHIN", 2.0)
    broker = start_broker(RabbitMQ)
    template = make_url(migrated_database_url).database
    assert template is not None
    settings: dict[str, Any] = {
        **broker.settings,
        "MQTT_BROKER_URL": broker.url,
        "MQTT_TOPIC_PREFIX": "fleet/{vessel_id}/sync",
        "MQTT_PROTOCOL": "3.1.1",
    }
    names = {f"ship-{number}" for number in range(3)}
    with ExitStack() as stack:
        for name in names:
            database = tmp_path / f"{name}.sqlite"
            shutil.copy(template, database)
            vessel = Vessel(f"sqlite:///{database}", **{**settings, "VESSEL_ID": name})
            stack.enter_context(vessel).wait_connected(30)
        app = create_app(
            {
                "SECRET_KEY": "for-tests-only-and-long-enough",
                "DATABASE_URL": migrated_database_url,
                "LOCAL_MODE": "false",
                **settings,
            }
        )
        shore = stack.enter_context(FollowerThread(app))
        eventually(lambda: {one.vessel_id for one in shore.status().vessels} == names, 30)
        assert all(one.online for one in shore.status().vessels)
    with app.app_context():
        db.engine.dispose()
