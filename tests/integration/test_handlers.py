"""Subscriptions and the handlers of inbound messages, with a real broker and the owner in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from flask import Flask, current_app
from sqlalchemy import text

from arus.errors import TopicError
from arus.inbound import handlers as arus_inbox
from arus.inbound.handlers import Message, Subscriptions
from extensions import db, sync
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually


class Handler:
    """Collects messages; fails as often as it is told to."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.failures: dict[str, int] = {}
        self.apps: set[str] = set()
        self.threads: set[str] = set()
        self.hold = threading.Event()
        self.hold.set()

    def __call__(self, message: Message) -> None:
        assert self.hold.wait(30)
        self.apps.add(current_app.name)
        self.threads.add(threading.current_thread().name)
        word = message.payload.decode()
        if self.failures.get(word, 0) > 0:
            self.failures[word] -= 1
            raise ValueError(f"not {word}")
        self.got.append(word)


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Handler]:
    """A handler; every filter that the test subscribes to is taken away after it."""
    monkeypatch.setattr(arus_inbox, "RETRIES", (0.05, 0.05))
    handler = Handler()
    yield handler
    handler.hold.set()
    for topic_filter in sync._subscriptions.filters():
        sync.unsubscribe(topic_filter)


@pytest.fixture
def database_kind() -> str:
    return "sqlite"


@pytest.fixture
def start(
    make_app: Callable[..., Flask], migrated_database_url: str, mosquitto: Mosquitto
) -> Callable[[], Flask]:
    """Starts the app's owner and waits for its connection."""

    def started() -> Flask:
        app = make_app(
            migrated_database_url, MQTT_BROKER_URL=mosquitto.url, MQTT_RECONNECT_PERIOD="0.2"
        )
        sync.start(app)
        wait_subscribed(app)
        return app

    return started


def connected(app: Flask) -> bool:
    with app.app_context():
        return sync.runtime().status().connected


def held(app: Flask) -> set[str]:
    with app.app_context(), db.engine.connect() as connection:
        rows = connection.execute(text("SELECT topic_filter FROM arus_subscription"))
        return set(rows.scalars())


def wait_subscribed(app: Flask) -> None:
    def told() -> bool:
        return connected(app) and held(app) >= set(sync._subscriptions.filters())

    eventually(told, message="subscriptions at the broker")


def parked(app: Flask) -> list[tuple[str, bytes, str, int]]:
    with app.app_context(), db.engine.connect() as connection:
        rows = connection.execute(text("SELECT topic, payload, reason, attempts FROM arus_parked"))
        return [(row[0], bytes(row[1]), row[2], row[3]) for row in rows]


def say(mosquitto: Mosquitto, word: str, topic: str = "vessel/sync/shore/x") -> None:
    mosquitto.publish(topic, word, "-q", "1")


def test_a_handler_gets_messages_in_an_app_context_off_the_network_thread(
    handler: Handler, start: Callable[[], Flask], mosquitto: Mosquitto
) -> None:
    sync.subscribe("vessel/sync/+/x", qos=1)(handler)
    app = start()
    for number in range(20):
        say(mosquitto, str(number))
    eventually(lambda: len(handler.got) == 20, message="20 messages")
    assert handler.got == [str(number) for number in range(20)]
    assert handler.apps == {app.name}
    assert handler.threads == {"arus-inbox"}


@pytest.mark.slow
def test_a_subscription_after_connecting_and_one_that_is_ended(
    handler: Handler, start: Callable[[], Flask], mosquitto: Mosquitto
) -> None:
    app = start()
    sync.unsubscribe("vessel/sync/never/was")
    sync.subscribe("vessel/sync/shore/#")(handler)
    sync.subscribe("vessel/sync/shore/#")(handler)
    wait_subscribed(app)
    say(mosquitto, "one")
    say(mosquitto, "parent", "vessel/sync/shore")
    eventually(lambda: handler.got == ["one", "parent"], message="a message, once")
    sync.unsubscribe("vessel/sync/shore/#")
    eventually(lambda: "vessel/sync/shore/#" not in held(app), message="the end of it")
    say(mosquitto, "two")
    sync.subscribe("vessel/sync/other")(handler)
    wait_subscribed(app)
    say(mosquitto, "three", "vessel/sync/other")
    eventually(lambda: "three" in handler.got, message="the third")
    assert handler.got == ["one", "parent", "three"]


def test_what_was_said_while_the_ship_was_away_comes_later(
    handler: Handler, start: Callable[[], Flask], mosquitto: Mosquitto
) -> None:
    sync.subscribe("vessel/sync/+/x")(handler)
    app = start()
    sync.stop(app)
    say(mosquitto, "meanwhile")
    sync.start(app)
    eventually(lambda: handler.got == ["meanwhile"], message="the message")


def test_a_broker_that_lost_the_session_is_told_again(
    handler: Handler, start: Callable[[], Flask], mosquitto: Mosquitto
) -> None:
    sync.subscribe("vessel/sync/+/x")(handler)
    app = start()
    mosquitto.kill()
    mosquitto.forget()
    eventually(lambda: not connected(app), message="the loss")
    mosquitto.start()
    eventually(lambda: connected(app), message="a connection")
    wait_subscribed(app)

    def heard() -> bool:
        say(mosquitto, "again")
        return "again" in handler.got

    eventually(heard, message="a message")


def test_a_message_is_acknowledged_only_after_its_handler_returned(
    handler: Handler, start: Callable[[], Flask], mosquitto: Mosquitto
) -> None:
    sync.subscribe("vessel/sync/+/x")(handler)
    app = start()
    handler.hold.clear()
    say(mosquitto, "slow")
    eventually(lambda: any(t.name == "arus-inbox" for t in threading.enumerate()), message="it")
    mosquitto.stop()  # in order: it keeps what is not acknowledged
    mosquitto.start()
    eventually(lambda: connected(app), message="a connection")
    handler.hold.set()
    say(mosquitto, "next")
    eventually(lambda: handler.got[-1:] == ["next"], message="the next message")
    # It was handled once: the redelivery was known for what it was.
    assert handler.got == ["slow", "next"]


def test_a_failing_handler_is_tried_again_while_other_topics_go_on(
    handler: Handler, start: Callable[[], Flask], mosquitto: Mosquitto
) -> None:
    sync.subscribe("vessel/sync/+/x")(handler)
    app = start()
    handler.failures = {"bad": 2}
    say(mosquitto, "bad")
    say(mosquitto, "after")
    eventually(lambda: handler.got == ["bad", "after"], message="both, in order")
    assert parked(app) == []


def test_a_message_that_always_fails_is_parked_and_can_be_replayed(
    handler: Handler, start: Callable[[], Flask], mosquitto: Mosquitto
) -> None:
    sync.subscribe("vessel/sync/+/x")(handler)
    app = start()
    handler.failures = {"bad": 99}
    say(mosquitto, "bad")
    say(mosquitto, "after")
    eventually(lambda: handler.got == ["after"], message="the one behind it")
    assert parked(app) == [("vessel/sync/shore/x", b"bad", "ValueError: not bad", 3)]
    handler.failures.clear()
    with app.app_context():
        parked_id = sync.runtime().dead_letters.recent()[0].id
        sync.runtime().dead_letters.replay(parked_id)
        assert sync.runtime().dead_letters.recent() == []
    assert handler.got == ["after", "bad"]


@pytest.mark.parametrize(
    ("topic_filter", "qos", "complaint"),
    [
        ("shore/x", 1, "a filter begins with vessel/sync/"),
        ("#", 1, "a filter begins with"),
        ("+/sync/x", 1, "a filter begins with"),
        ("$share/group/shore/x", 1, "a filter begins with"),
        ("vessel/sync/a#", 1, "#"),
        ("vessel/sync/x", 2, "received at 0 or 1"),
    ],
)
def test_filters_that_are_refused(topic_filter: str, qos: int, complaint: str) -> None:
    subscriptions = Subscriptions()
    subscriptions.allow(["vessel/sync/"])
    with pytest.raises(TopicError, match=complaint):
        subscriptions.add(topic_filter, qos, print)


def test_a_filter_from_before_the_settings_are_known_is_checked_then() -> None:
    subscriptions = Subscriptions()
    subscriptions.add("$share/group/vessel/sync/x", 1, print)
    subscriptions.add("shore/x", 1, print)
    with pytest.raises(TopicError, match="shore/x"):
        subscriptions.allow(["vessel/sync/"])
