"""A catch-up never has more on its way than its receiver's queue at the broker can hold."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import paho.mqtt.client as paho
import pytest
from flask import Flask
from sqlalchemy import create_engine, text

from bench.slow_link import Profile, SlowLink
from blueprints.crew.models import CrewMember
from extensions import db, sync
from tests.support.follower import FollowerProcess
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("database_kind", ["sqlite"])]

#: Slower than a catch-up without a window is sent.
NARROW = Profile("3 Mbit/s", 0.1, rate=3_000_000)
#: More than Mosquitto as shipped keeps for a client.
MISSED = 5_000


class Sea:
    """A ship, Mosquitto as shipped, a follower behind a narrow link, and who listens to requests and watermarks."""

    def __init__(self, app: Flask, broker: Mosquitto, shore_url: str, log: Path) -> None:
        self.app = app
        self.broker = broker
        self.link = SlowLink(broker.port, NARROW, seed=1)
        self._shore = create_engine(shore_url)
        self._log = log
        self._shore_url = shore_url
        #: Requests for a catch-up, and the numbers of the watermarks.
        self.requests: list[dict[str, Any]] = []
        self.watermarks: list[int] = []
        self._listener = paho.Client(paho.CallbackAPIVersion.VERSION2, "listener")
        self._listener.on_message = self._on_message
        self._subscribed = threading.Event()
        self._listener.on_subscribe = lambda *_: self._subscribed.set()

    def start(self) -> None:
        self._listener.connect("127.0.0.1", self.broker.port)
        self._listener.loop_start()
        topics = ("vessel/sync/catchup_requests", "vessel/sync/watermarks/+")
        self._listener.subscribe([(topic, 1) for topic in topics])
        assert self._subscribed.wait(20)

    def close(self) -> None:
        self._listener.disconnect()
        self._listener.loop_stop()
        self._shore.dispose()

    def _on_message(self, _client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        document = orjson.loads(message.payload)
        if "/watermarks/" in message.topic:
            self.watermarks.append(document["seq"])
        elif document.get("mode") != "digest":
            self.requests.append(document)

    def hire(self, count: int) -> int:
        """Write rows on the ship, wait until the broker has them, and return the head of the log."""
        with self.app.app_context():
            for start in range(0, count, 1000):
                numbers = range(start, min(start + 1000, count))
                crew = [CrewMember(name=f"Sailor {n}", notes="n" * 300) for n in numbers]
                db.session.add_all(crew)
                db.session.commit()
            sync.runtime().notifier.notify()
            status = sync.runtime().status
            eventually(lambda: status().depth == 0, 60, message="a delivered queue")
            return status().head_seq

    def follow(self, protocol: str) -> FollowerProcess:
        settings = {
            "DATABASE_URL": self._shore_url,
            "MQTT_BROKER_URL": f"mqtt://127.0.0.1:{self.link.port}",
            "MQTT_PROTOCOL": protocol,
            "MQTT_RECONNECT_PERIOD": "0.5",
        }
        return FollowerProcess(self._log, settings)

    def wait_equal(self, head: int) -> None:
        """Return once the follower says that it has applied everything; it must be true."""
        reached = lambda: self.watermarks[-1:] == [head]  # noqa: E731
        eventually(
            reached, 30, message=f"a watermark at {head}; the last are {self.watermarks[-9:]}"
        )
        rows = text("SELECT id, version, name FROM crew ORDER BY id")
        with self.app.app_context(), self._shore.connect() as shore, db.engine.connect() as ship:
            assert shore.execute(rows).all() == ship.execute(rows).all()

    def dropped(self, start: int = 0) -> list[str]:
        """What the broker's log says, from a place on, about messages that it has dropped."""
        return [line for line in self.broker.log[start:].splitlines() if "being dropped" in line]

    def forget_session(self) -> None:
        """Have the broker discard its half of the follower's session."""
        client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, "arus_follow_shore", clean_session=True
        )
        connected = threading.Event()
        client.on_connect = lambda *_: connected.set()
        client.connect("127.0.0.1", self.broker.port)
        client.loop_start()
        assert connected.wait(20)
        client.disconnect()
        client.loop_stop()

    def growth(self, low: int, high: int) -> int:
        """How many different watermarks there were between two numbers; they never go down."""
        assert self.watermarks == sorted(self.watermarks)
        return len({mark for mark in self.watermarks if low < mark < high})


@pytest.fixture
def sea(
    make_app: Callable[..., Flask],
    migrated_database_url: str,
    _migrated: Callable[[str], str],
    start_mosquitto: Callable[..., Mosquitto],
    tmp_path: Path,
) -> Iterator[Sea]:
    shore = tmp_path / "ashore.sqlite"
    shutil.copy(_migrated("sqlite"), shore)
    broker = start_mosquitto(as_shipped=True)
    app = make_app(migrated_database_url, MQTT_BROKER_URL=broker.url, MQTT_RECONNECT_PERIOD="0.2")
    sync.start(app)
    sea = Sea(app, broker, f"sqlite:///{shore}", tmp_path / "follower.log")
    with ExitStack() as stack:
        stack.enter_context(sea.link)
        stack.callback(sea.close)
        sea.start()
        yield sea
    print((tmp_path / "follower.log").read_text()[-6000:])  # shown for a failed test only


def test_a_slow_follower_that_missed_5000_changes_is_equal_after_one_request(sea: Sea) -> None:
    joined = sea.hire(5)
    with sea.follow("auto") as follower:
        sea.wait_equal(joined)
        follower.stop()
    sea.forget_session()
    head = sea.hire(MISSED)
    before = len(sea.requests)
    with sea.follow("auto"):
        sea.wait_equal(head)
    assert sea.dropped() == []
    asked = [(request["entity"], request["sinceSeq"]) for request in sea.requests[before:]]
    assert asked == [("all", joined)]
    assert sea.growth(joined, head) >= 10


def test_a_follower_whose_queue_was_full_is_equal_after_one_request(sea: Sea) -> None:
    head = sea.hire(5)
    with sea.follow("3.1.1") as follower:
        sea.wait_equal(head)
        follower.stop()
    head = sea.hire(2_500)
    assert sea.dropped(), "nothing was lost"
    before, start = len(sea.requests), len(sea.broker.log)
    with sea.follow("3.1.1"):
        sea.wait_equal(head)
    assert sea.dropped(start) == []
    assert [request["entity"] for request in sea.requests[before:]] == ["crew"]
    assert sea.requests[-1]["sinceSeq"] >= 1_000
    assert sea.growth(1_020, head) >= 4
