"""The embedded broker: good enough for trying the product out, and never open to strangers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.broker import find_program
from tests.support.gunicorn_app import ROOT
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually, free_port
from tools.ports import answers
from tools.processes import Child

pytestmark = pytest.mark.slow

LOGIN = ("-u", "vessel", "-P", "secret", "-V", "mqttv311")


@pytest.fixture
def embedded() -> Iterator[int]:
    port = free_port()
    child = Child(
        "embedded broker",
        [sys.executable, "-m", "tools.embedded_broker", str(port)],
        cwd=ROOT,
        env={**os.environ, "MQTT_USERNAME": "vessel", "MQTT_PASSWORD": "secret"},
    )
    with ExitStack() as stack:
        stack.callback(child.kill)
        eventually(lambda: answers(port), 20)
        yield port
        assert child.stop() == 0


def publish(port: int, *arguments: str) -> int:
    command = [find_program("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(port), *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=20).returncode


@pytest.mark.parametrize(
    "login",
    [(), ("-u", "vessel"), ("-u", "vessel", "-P", "guess"), ("-u", "other", "-P", "secret")],
    ids=["nobody", "no password", "wrong password", "wrong user"],
)
def test_it_lets_nobody_else_in(embedded: int, login: tuple[str, ...]) -> None:
    assert publish(embedded, "-V", "mqttv311", "-t", "a", "-m", "1", *login) != 0


@pytest.mark.parametrize("qos", ["1", "2"])
def test_it_delivers_and_keeps_for_who_is_away(embedded: int, qos: str) -> None:
    subscriber = Subscriber(embedded, "ship/#", args=(*LOGIN, "-i", "shore", "-c"))
    with subscriber:
        assert publish(embedded, *LOGIN, "-q", qos, "-t", "ship/a", "-m", '{"n": 1}') == 0
        subscriber.wait(1)
        subscriber.stop()
        assert publish(embedded, *LOGIN, "-q", qos, "-t", "ship/b", "-m", '{"n": 2}') == 0
        subscriber.start()
        subscriber.wait_for(lambda message: message.json["n"] == 2)
        # amqtt may repeat a message
        assert list(dict.fromkeys(m.json["n"] for m in subscriber.messages)) == [1, 2]
