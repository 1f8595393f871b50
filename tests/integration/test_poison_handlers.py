"""A message whose handler ends the process each time becomes a dead letter."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from arus.inbound.attempts import BEGUN, MAX_ATTEMPTS, Attempts
from arus.inbound.handlers import Message
from tests.support.gunicorn_app import ROOT, clean_environment
from tests.support.mosquitto import Mosquitto
from tests.support.vessel import StartVessel, Vessel
from tests.support.waiting import eventually
from tools.processes import Child

NEWS = "vessel/sync/news"


@pytest.fixture
def database_kind() -> str:
    return "sqlite"


def handle(message: Message) -> None:
    """End the process without a trace, as a fault in a C library does."""
    if message.payload == b"poison":
        os._exit(9)


@pytest.mark.slow
def test_a_message_that_ends_the_process_each_time_becomes_a_dead_letter(
    mosquitto: Mosquitto, migrated_database_url: str, tmp_path: Path
) -> None:
    engine = create_engine(migrated_database_url)

    def query(statement: str) -> list[tuple[object, ...]]:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    def letters() -> list[tuple[object, ...]]:
        return query("SELECT topic, payload, attempts, reason FROM arus_parked")

    poison = (NEWS, b"poison", MAX_ATTEMPTS, BEGUN)
    argv = [sys.executable, "-m", __name__, migrated_database_url, mosquitto.url]
    published = False
    said = tmp_path / "log"
    # The first delivery is not counted, and the last finds the count.
    for number in range(1 + MAX_ATTEMPTS + 1):
        with said.open("ab") as log:
            child = Child("vessel", argv, env=clean_environment(), cwd=ROOT, output=log)
        try:
            if not published:
                eventually(lambda: len(query("SELECT 1 FROM arus_subscription")) == 4, 20)
                mosquitto.publish(NEWS, "poison", "-q", "1")
                mosquitto.publish(NEWS, "fine", "-q", "1")
                published = True
            if number <= MAX_ATTEMPTS:
                eventually(lambda: child.returncode() is not None, 20, message="its end")  # noqa: B023
                continue
            eventually(
                lambda: "is a dead letter" in said.read_text(), 20, message="the dead letter"
            )
            # `fine` is redelivered too: it has a row while its handler runs
            eventually(lambda: letters() == [poison], message="the poison alone")
            assert child.returncode() is None
        finally:
            child.kill()
    assert letters() == [poison]
    engine.dispose()


def test_a_handler_that_returns_leaves_no_dead_letter(
    mosquitto: Mosquitto, start_vessel: StartVessel, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bytes] = []
    begin = Attempts.begin

    def note(attempts: Attempts, topic: str, payload: bytes, topic_filter: str) -> int | None:
        begun.append(payload)
        return begin(attempts, topic, payload, topic_filter)

    monkeypatch.setattr(Attempts, "begin", note)
    go, got = threading.Event(), []

    def wait(message: Message) -> None:
        assert go.wait(30)
        got.append(message.payload)

    vessel = start_vessel(mosquitto.url)
    vessel.subscriptions.add(NEWS, 1, wait)
    vessel.wait_connected()
    eventually(lambda: len(vessel.query("SELECT 1 FROM arus_subscription")) == 4, message="all")
    mosquitto.publish(NEWS, "one", "-q", "1")
    mosquitto.publish(NEWS, "two", "-q", "1")
    eventually(lambda: "arus-inbox" in [t.name for t in threading.enumerate()], message="one")
    mosquitto.stop()
    mosquitto.start()
    vessel.wait_signal("connected", 2)
    eventually(lambda: f"m2, '{NEWS}'" in mosquitto.log.rpartition("connected")[2], message="both")
    go.set()
    eventually(lambda: got == [b"one", b"two"], message="both, once")
    assert begun == [b"two"]  # `one` was in its handler all the time
    eventually(lambda: not vessel.query("SELECT 1 FROM arus_parked"), message="no dead letter")


def main() -> None:
    """Run until the handler ends the process: DATABASE_URL BROKER_URL."""
    vessel = Vessel(sys.argv[1], MQTT_BROKER_URL=sys.argv[2])
    vessel.subscriptions.add(NEWS, 1, handle)
    vessel.start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
