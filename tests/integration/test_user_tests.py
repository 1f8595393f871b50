"""What `arus.testing` gives to an application's own tests: written as such tests are, of a small application."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from arus.errors import ArusError
from arus.inbound.handlers import Message
from arus.protocol.entries import ChangeState
from arus.testing import MemoryBroker, deliver, memory_broker, published, relaying, set_clock
from tests.support.small_app import Hull, Part, db, small_app, sync

PREFIX = "vessel/sync"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    settings: dict[str, Any] = {
        "TESTING": True,
        "VESSEL_ID": "ship-1",
        "MQTT_RECONNECT_PERIOD": "0.05",
    }
    with small_app(f"sqlite:///{tmp_path}/app.sqlite", **settings) as app:
        yield app


@pytest.fixture
def broker(app: Flask) -> Iterator[MemoryBroker]:
    with memory_broker(app) as broker:
        yield broker


def commit(*names: str) -> list[Hull]:
    hulls = [Hull(name=name) for name in names]
    for hull in hulls:
        db.session.add(hull)
        db.session.commit()
    return hulls


def names(app: Flask, topic: str = "hulls") -> list[str]:
    return [message.payload["data"]["name"] for message in published(app, topic)]


@pytest.fixture
def leaders() -> Callable[[], list[threading.Thread]]:
    """Returns the threads of owners that were started since; an application that tests share has one of its own."""
    others = set(threading.enumerate())
    return lambda: [
        thread
        for thread in threading.enumerate()
        if thread.name == "arus-owner" and thread not in others
    ]


# -- what is published --------------------------------------------------------------------------------


def test_a_committed_row_is_published(app: Flask, broker: MemoryBroker) -> None:
    hull = Hull(name="Aurora")
    db.session.add(hull)
    db.session.commit()
    assert published(app) == [], "nothing is relayed before it is told to"

    (message,) = deliver(app)
    assert message == published(app)[0]
    assert (message.topic, message.qos, message.retain) == (f"{PREFIX}/hulls", 1, True)
    assert message.payload["type"] == "data_change"
    assert message.payload["operation"] == "create"
    assert message.payload["vesselId"] == "ship-1"
    assert message.payload["seq"] == 1
    assert message.payload["data"]["id"] == hull.id
    receipt = sync.publish_change("create", hull)
    assert receipt
    assert message.payload["messageId"] == receipt.message_id
    assert sync.runtime().changes.find(receipt.message_id).state is ChangeState.DELIVERED
    assert broker.retained[f"{PREFIX}/hulls"] == message


def test_what_is_rolled_back_is_not(app: Flask, broker: MemoryBroker) -> None:
    db.session.add(Hull(name="Aurora"))
    db.session.rollback()
    assert deliver(app) == []
    assert broker.attempts == 1


def test_changes_come_in_order_once_and_only_the_new_ones_each_time(
    app: Flask, broker: MemoryBroker
) -> None:
    (aurora, _borealis) = commit("Aurora", "Borealis")
    assert len(deliver(app)) == 2
    aurora.name = "Aurora II"
    db.session.commit()
    db.session.delete(aurora)
    db.session.commit()
    assert [message.payload["operation"] for message in deliver(app)] == ["update", "delete"]
    assert deliver(app) == []
    assert names(app) == ["Aurora", "Borealis", "Aurora II", "Aurora II"]
    assert [message.payload["seq"] for message in published(app)] == [1, 2, 3, 4]


@pytest.mark.slow
def test_an_exactly_once_topic_has_each_message_once_though_the_connection_ends(
    app: Flask, broker: MemoryBroker
) -> None:
    hull = Hull(name="Aurora", parts=[Part(name="keel"), Part(name="rudder")])
    db.session.add(hull)
    db.session.commit()
    broker.hold_acknowledgements()
    deliver(app)
    assert len(published(app, "deck/parts")) == 2
    broker.acknowledge()
    deliver(app)
    parts = published(app, "deck/parts")
    assert sorted(message.payload["data"]["name"] for message in parts) == ["keel", "rudder"]
    assert {message.qos for message in parts} == {2}
    assert sync.runtime().status().depth == 0


def test_the_status_of_the_vessel_is_retained(app: Flask, broker: MemoryBroker) -> None:
    deliver(app)
    assert [message.payload["status"] for message in published(app, "system/status")] == [
        "online",
        "offline",
    ]
    assert broker.retained[f"{PREFIX}/system/status"].payload["status"] == "offline"


def test_a_catchup_sends_rows_again(app: Flask, broker: MemoryBroker) -> None:
    commit("Aurora", "Borealis")
    deliver(app)
    queued = sync.runtime().catchups.request({"entity": "hulls"})
    assert deliver(app) == [], "they are no changes"
    kinds = [message.payload["type"] for message in published(app, "catchup/#")]
    assert kinds == ["catchup_begin", "catchup", "catchup", "catchup_end"]
    assert sync.runtime().catchups.find(queued.catchup_id).finished


# -- a broker that is away, or says no ----------------------------------------------------------------


def test_what_is_committed_offline_waits_and_is_delivered_later(
    app: Flask, broker: MemoryBroker
) -> None:
    broker.go_offline()
    commit("Aurora")
    assert deliver(app) == []
    status = sync.runtime().status()
    assert (status.depth, status.connected) == (1, False)
    assert sync.runtime().health()["status"] == "degraded"
    broker.go_online()
    assert [message.payload["data"]["name"] for message in deliver(app)] == ["Aurora"]


def test_a_refused_connection_is_told_by_its_reason(app: Flask, broker: MemoryBroker) -> None:
    broker.refuse_connections("Bad user name or password", 0x86)
    commit("Aurora")
    assert deliver(app) == []
    assert "Bad user name or password" in (sync.runtime().status().reason or "")


def test_a_refused_message_is_quarantined_and_holds_up_no_other(
    app: Flask, broker: MemoryBroker
) -> None:
    broker.reject(f"{PREFIX}/hulls")
    db.session.add(Hull(name="Aurora", parts=[Part(name="keel")]))
    db.session.commit()
    deliver(app)
    assert [message.topic for message in published(app)] == [f"{PREFIX}/deck/parts"]
    (change,) = sync.runtime().changes.page(states=[ChangeState.QUARANTINED]).items
    broker.reject(f"{PREFIX}/hulls", 0)
    sync.runtime().changes.retry(change.message_id)
    deliver(app)
    assert names(app) == ["Aurora"]


@pytest.mark.slow
def test_what_is_not_acknowledged_is_in_flight(app: Flask, broker: MemoryBroker) -> None:
    (hull,) = commit("Aurora")
    broker.hold_acknowledgements()
    deliver(app)
    assert sync.runtime().changes.states("hulls", [hull.id]) == {hull.id: ChangeState.IN_FLIGHT}
    broker.acknowledge()
    deliver(app)
    assert sync.runtime().changes.states("hulls", [hull.id]) == {hull.id: ChangeState.DELIVERED}


@pytest.mark.slow
def test_a_broker_that_lost_its_sessions_is_told_all_again(
    app: Flask, broker: MemoryBroker
) -> None:
    broker.hold_acknowledgements()
    commit("Aurora")
    deliver(app)
    broker.forget_sessions()
    broker.acknowledge()
    deliver(app)
    assert names(app) == ["Aurora", "Aurora"], "QoS 1 may repeat a message"


# -- what comes in ------------------------------------------------------------------------------------


def test_a_handler_gets_what_others_publish(app: Flask, broker: MemoryBroker) -> None:
    orders: list[object] = []

    def ordered(message: Message) -> None:
        orders.append(message.json())

    sync.runtime().subscriptions.add(f"{PREFIX}/+/orders", 1, ordered)
    deliver(app)
    assert f"{PREFIX}/+/orders" in broker.subscriptions
    broker.publish(f"{PREFIX}/shore/orders", {"go": "north"})
    broker.publish(f"{PREFIX}/shore/weather", {"wind": 7})
    deliver(app)
    assert orders == [{"go": "north"}]
    assert broker.unacknowledged == 0


def test_only_a_retained_message_has_the_retain_flag(app: Flask, broker: MemoryBroker) -> None:
    """As with a real broker: one that is received live does not have it."""
    flags: list[tuple[object, bool]] = []

    def noted(message: Message) -> None:
        flags.append((message.json(), message.retain))

    broker.publish(f"{PREFIX}/shore/orders", "old", retain=True)
    sync.runtime().subscriptions.add(f"{PREFIX}/+/orders", 1, noted)
    deliver(app)
    broker.publish(f"{PREFIX}/shore/orders", "new", retain=True)
    deliver(app)
    assert flags == [("old", True), ("new", False)]


def test_a_catchup_is_asked_for_by_a_message(app: Flask, broker: MemoryBroker) -> None:
    commit("Aurora")
    deliver(app)
    broker.publish(f"{PREFIX}/catchup_requests", {"entity": "hulls", "requestId": "r1"})
    deliver(app)
    assert published(app, "catchup/hulls")[0].payload["requestId"] == "r1"


# -- time ---------------------------------------------------------------------------------------------


def test_a_set_clock_dates_changes_and_lets_the_log_forget(
    app: Flask, broker: MemoryBroker
) -> None:
    with set_clock("2026-11-26T08:00:00Z") as clock:
        commit("Aurora")
        (message,) = deliver(app)
        assert message.payload["timestamp"] == "2026-11-26T08:00:00.000Z"
        clock.advance(days=8)
        commit("Borealis")
        (message,) = deliver(app)
        assert message.payload["timestamp"] == "2026-12-04T08:00:00.000Z"
        kept = sync.runtime().changes.page().items
        assert [change.seq for change in kept] == [2], "MQTT_RETENTION_DAYS is 7"
        assert clock.now == datetime(2026, 12, 4, 8, tzinfo=UTC)
    commit("Cruz")
    (message,) = deliver(app)
    assert message.payload["timestamp"] > "2026"
    assert message.payload["timestamp"] != "2026-12-04T08:00:00.000Z"
    with pytest.raises(ArusError, match="no time zone"), set_clock("2026-11-26T08:00:00"):
        pass


# -- who relays ---------------------------------------------------------------------------------------


def test_an_application_under_test_starts_nothing_by_itself(
    app: Flask, broker: MemoryBroker, leaders: Callable[[], list[threading.Thread]]
) -> None:
    app.add_url_rule("/", view_func=lambda: "here")
    assert app.test_client().get("/").text == "here"
    assert leaders() == []
    assert broker.attempts == 0
    app.testing = False
    app.test_client().get("/")
    assert len(leaders()) == 1
    broker.wait_for(lambda broker: broker.connected)


def test_a_thread_of_its_own_relays_as_in_production(
    app: Flask, broker: MemoryBroker, leaders: Callable[[], list[threading.Thread]]
) -> None:
    with relaying(app):
        commit("Aurora")
        broker.wait_for(lambda _: names(app) == ["Aurora"])
        broker.hang_up()
        broker.wait_for(lambda broker: broker.attempts == 2 and broker.connected)
        commit("Borealis")
        broker.wait_for(lambda _: names(app) == ["Aurora", "Borealis"])
        with pytest.raises(ArusError, match="another thread or process relays"):
            deliver(app, timeout=0.2)
    assert leaders() == []
    assert broker.retained[f"{PREFIX}/system/status"].payload["status"] == "offline"
    with pytest.raises(TimeoutError):
        broker.wait_for(lambda broker: broker.connected, timeout=0.01)


def test_the_will_speaks_for_a_vessel_whose_connection_ends(
    app: Flask, broker: MemoryBroker
) -> None:
    with relaying(app):
        broker.wait_for(lambda broker: f"{PREFIX}/system/status" in broker.retained)
        broker.go_offline()
        broker.wait_for(
            lambda broker: broker.retained[f"{PREFIX}/system/status"].payload["status"] == "offline"
        )


@pytest.mark.slow
def test_what_can_not_be_delivered_in_time_is_named(app: Flask, broker: MemoryBroker) -> None:
    sync.runtime().subscriptions.add(f"{PREFIX}/slow", 1, lambda _message: release.wait(30))
    release = threading.Event()
    deliver(app)
    broker.publish(f"{PREFIX}/slow", {})
    try:
        with pytest.raises(TimeoutError, match="1 messages are with their handlers"):
            deliver(app, timeout=0.3)
    finally:
        release.set()


def test_misuse_is_said(app: Flask, tmp_path: Path) -> None:
    with pytest.raises(ArusError, match="no memory broker"):
        deliver(app)
    with pytest.raises(ArusError, match="no memory broker"):
        published(app)
    db.session.execute(text("SELECT 1"))
    shore = Flask("shore")
    url = f"sqlite:///{tmp_path}/shore.sqlite"
    shore.config.update({"SQLALCHEMY_DATABASE_URI": url, "LOCAL_MODE": "false"})
    db.init_app(shore)
    sync.init_app(shore, db)
    with memory_broker(shore), pytest.raises(ArusError, match="LOCAL_MODE is false"):
        deliver(shore)
