"""deploy/rabbitmq/add_user: who may publish and read what at RabbitMQ, and that Arus needs no more than that."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import paho.mqtt.client as paho
import pytest
from sqlalchemy import make_url

from app import create_app
from blueprints.crew.models import CrewMember
from extensions import db, sync
from tests.support.broker import DEPLOY, Broker
from tests.support.follower import FollowerThread
from tests.support.rabbitmq import RabbitMQ
from tests.support.waiting import eventually

ROWS = 20

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("database_kind", ["sqlite"])]


class User:
    """One connection of a user, by MQTT 3.1.1: RabbitMQ ends it when something is denied."""

    def __init__(self, broker: Broker, name: str, client_id: str, *, clean: bool = True) -> None:
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=clean,
            reconnect_on_failure=False,
        )
        self._client.username_pw_set(name, name)
        self._client.on_connect = lambda *_: self.said.append("connected")
        self._client.on_disconnect = lambda *_: self.said.append("ended")
        self._client.on_publish = lambda *_: self.said.append("published")
        self._client.on_subscribe = lambda _c, _d, _m, reasons, _p: self.said.append(
            "refused" if reasons[0].is_failure else "subscribed"
        )
        self._client.on_message = lambda _c, _d, message: self.received.append(message.topic)
        #: What happened on the connection.
        self.said: list[str] = []
        self.received: list[str] = []
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        eventually(lambda: self.said, 20, message="RabbitMQ answers")

    def outcome(self, kind: str, topic: str) -> str:
        """Publish or subscribe, and return what came of it."""
        before = len(self.said)
        if kind == "publish":
            self._client.publish(topic, b"{}", qos=1)
        else:
            self._client.subscribe(topic, 1)
        eventually(lambda: len(self.said) > before, 20, message="RabbitMQ answers")
        return self.said[before]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


LogIn = Callable[..., User]


@pytest.fixture
def log_in() -> Iterator[LogIn]:
    """Logs a user in; the connection ends after the test."""
    with ExitStack() as stack:

        def log_in(*arguments: Any, **options: Any) -> User:
            user = User(*arguments, **options)
            stack.callback(user.close)
            return user

        yield log_in


def check_rights(broker: Broker, log_in: LogIn) -> None:
    ship, shore = ("ship-1", "arus_sync_ship-1"), ("shore", "arus_follow_shore")
    allowed = {
        ship: (
            ("publish", "fleet/ship-1/sync/alerts"),
            ("publish", "fleet/ship-1/sync/system/session/arus_sync_ship-1"),
            ("subscribe", "fleet/ship-1/sync/watermarks/+"),
            ("subscribe", "fleet/_all/sync/catchup_requests"),
        ),
        shore: (
            ("publish", "fleet/_all/sync/catchup_requests"),
            ("publish", "fleet/ship-2/sync/watermarks/shore"),
            ("publish", "fleet/ship-2/sync/proposals/crew"),
            ("publish", "fleet/_all/sync/system/session/arus_follow_shore"),
            ("subscribe", "fleet/+/sync/system/status"),
        ),
    }
    denied = {
        ship: (
            ("publish", "fleet/ship-2/sync/alerts"),
            ("publish", "fleet/ship-2/sync/watermarks/shore"),
            ("publish", "fleet/_all/sync/catchup_requests"),
            ("publish", "vessel/sync/alerts"),
            ("subscribe", "fleet/ship-2/sync/alerts"),
            ("subscribe", "fleet/+/sync/alerts"),
            ("subscribe", "#"),
        ),
        shore: (
            ("publish", "fleet/ship-1/sync/alerts"),
            ("publish", "fleet/ship-1/sync/catchup/crew"),
            ("publish", "fleet/ship-1/sync/system/status"),
            ("publish", "fleet/ship-1/sync/watermarks/another"),
            ("publish", "fleet/shore/sync/alerts"),
        ),
    }
    for (name, client_id), attempts in allowed.items():
        user = log_in(broker, name, client_id)
        for kind, topic in attempts:
            assert user.outcome(kind, topic) in {"published", "subscribed"}, (name, kind, topic)
        user.close()
    for (name, client_id), attempts in denied.items():
        for kind, topic in attempts:
            user = log_in(broker, name, client_id)
            assert user.outcome(kind, topic) in {"ended", "refused"}, (name, kind, topic)
            user.close()


def check_sessions(broker: Broker, log_in: LogIn) -> None:
    """A user can't read or delete the queue of another one's client id."""
    shore = log_in(broker, "shore", "arus_follow_shore", clean=False)
    assert shore.outcome("subscribe", "fleet/+/sync/crew") == "subscribed"
    shore.close()
    ship = log_in(broker, "ship-1", "arus_sync_ship-1")
    assert ship.outcome("publish", "fleet/ship-1/sync/crew") == "published"
    for clean in (False, True):
        thief = log_in(broker, "ship-1", "arus_follow_shore", clean=clean)
        assert thief.said[-1] == "ended" or thief.outcome(
            "subscribe", "fleet/ship-1/sync/crew"
        ) in {
            "ended",
            "refused",
        }
        assert thief.received == []
        thief.close()
    shore = log_in(broker, "shore", "arus_follow_shore", clean=False)
    eventually(lambda: shore.received == ["fleet/ship-1/sync/crew"], message="its queue is kept")
    shore.close()
    log_in(broker, "shore", "arus_follow_shore").close()


def test_a_vessel_and_a_follower_get_equal_with_the_rights_that_the_script_gives(
    start_broker: Callable[..., Broker], log_in: LogIn, migrated_database_url: str, tmp_path: Any
) -> None:
    broker = start_broker(RabbitMQ)
    assert isinstance(broker, RabbitMQ)
    broker.add_user("vessel", "ship-1")
    broker.add_user("follower", "shore")
    check_rights(broker, log_in)
    check_sessions(broker, log_in)

    template = make_url(migrated_database_url).database
    assert template is not None

    def make(name: str, **config: str) -> Any:
        shutil.copy(template, tmp_path / f"{name}.sqlite")
        return create_app(
            {
                "SECRET_KEY": "for-tests-only-and-long-enough",
                "DATABASE_URL": f"sqlite:///{tmp_path}/{name}.sqlite",
                "VESSEL_ID": name,
                "MQTT_BROKER_URL": broker.url,
                "MQTT_USERNAME": name,
                "MQTT_PASSWORD": name,
                "MQTT_PROTOCOL": "3.1.1",
                "MQTT_TOPIC_PREFIX": "fleet/{vessel_id}/sync",
                "MQTT_RECONNECT_PERIOD": "0.2",
                **config,
            }
        )

    def write(count: int) -> None:
        with ship.app_context():
            db.session.add_all([CrewMember(name=f"sailor {number}") for number in range(count)])
            db.session.commit()

    def is_equal(seq: int) -> bool:
        vessels = follower.status().vessels
        return [(one.vessel_id, one.seq) for one in vessels] == [("ship-1", seq)] and bool(
            vessels[0].audit and vessels[0].audit["equal"]
        )

    ship = make("ship-1", LOCAL_MODE="true")
    shore = make("shore", LOCAL_MODE="false")
    sync.start(ship)
    try:
        write(ROWS)
        status = ship.extensions["arus"].status
        eventually(lambda: status().head_seq == ROWS and not status().depth, 30)
        with FollowerThread(shore) as follower:
            eventually(lambda: is_equal(ROWS), 60, message="equal after a catch-up")
            write(3)
            eventually(lambda: is_equal(ROWS + 3), 60, message="equal after changes")
    finally:
        sync.stop(ship)
        for app in (ship, shore):
            with app.app_context():
                db.engine.dispose()


def test_the_script_refuses_names_that_are_patterns(database_kind: str) -> None:
    for arguments in (["vessel", "ship.1"], ["vessel", "_all"], ["vessel", ".*"], ["", "ship-1"]):
        done = subprocess.run(
            [DEPLOY / "rabbitmq" / "add_user", *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 2, arguments
        assert done.stderr.startswith("add_user vessel|follower NAME"), arguments
