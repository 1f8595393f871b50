"""`MQTT_DATA_BUDGET`: what leaves is counted, and only urgent changes are sent once the day's bytes are spent."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from arus.mqtt.meter import Kind
from arus.outbox.status import SyncStatus
from arus.outbox.usage import DataBudget, Usage
from arus.protocol.frames import decompress, is_frame
from arus.relay.budget import Budget
from arus.relay.window import START
from arus.testing import Clock, MemoryBroker, memory_broker, relaying, set_clock
from arus.web import sync_page
from tests.support.certificates import Certificates
from tests.support.mosquitto import Mosquitto
from tests.support.small_app import Hull, Part, db, small_app, sync
from tests.support.vessel import StartVessel, Vessel, VesselProcess
from tests.support.waiting import eventually

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"])

#: Bytes of a hull's name, so that each change has about a kilobyte.
NAME = "n" * 600
BUDGET = 50_000
#: A day's changes, without the tenth that is reserved.
ORDINARY = 45_000
NOTHING: Any = None


@pytest.fixture
def clock() -> Iterator[Clock]:
    with set_clock("2026-11-27T09:00:00+01:00") as clock:
        yield clock


@pytest.fixture
def app(clock: Clock, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Flask]:
    settings: dict[str, Any] = {
        "TESTING": True,
        "VESSEL_ID": "ship-1",
        "MQTT_RECONNECT_PERIOD": "0.05",
        "MQTT_DATA_BUDGET": f"{BUDGET}",
        "MQTT_COMPRESSION": getattr(request, "param", "off"),
    }
    with small_app(f"sqlite:///{tmp_path}/app.sqlite", zone="Europe/Oslo", **settings) as app:
        yield app


@pytest.fixture
def broker(app: Flask) -> Iterator[MemoryBroker]:
    with memory_broker(app) as broker:
        yield broker


def status() -> SyncStatus:
    return sync.runtime().status()


def used() -> Usage:
    return status().usage


def commit(count: int, model: type[Any] = Hull) -> None:
    if model is Part:
        hull = db.session.query(Hull).first()
        db.session.add_all(Part(name="urgent", hull=hull) for _ in range(count))
        db.session.commit()
        return
    for _ in range(count):
        db.session.add(Hull(name=NAME))
    db.session.commit()


def arrived(broker: MemoryBroker, topic: str) -> int:
    """Changes that the broker has received on a topic, and items of catch-ups."""
    wanted = {"data_change", "catchup"}
    messages = [m for m in broker.messages if m.topic == f"vessel/sync/{topic}"]
    return sum(isinstance(m.payload, dict) and m.payload.get("type") in wanted for m in messages)


def bytes_on(broker: MemoryBroker, topic: str) -> int:
    return sum(len(m.data) for m in broker.messages if m.topic.endswith(topic))


def is_spent() -> bool:
    return used().is_held


def sent_today(broker: MemoryBroker, committed: int) -> int:
    """Hulls that have arrived, once the budget is spent and all that may be sent is delivered."""
    eventually(
        lambda: is_spent() and status().depth == committed - arrived(broker, "hulls"),
        message="the budget is spent",
    )
    return arrived(broker, "hulls")


@pytest.mark.slow
def test_only_urgent_changes_are_sent_until_midnight_once_it_is_spent(
    app: Flask, broker: MemoryBroker, clock: Clock
) -> None:
    commit(100)
    with relaying(app):
        sent = sent_today(broker, 100)
        assert 30 < sent < 50
        assert bytes_on(broker, "hulls") <= ORDINARY
        commit(3, Part)
        broker.wait_for(lambda _: arrived(broker, "deck/parts") == 3)
        eventually(lambda: status().depth == 100 - sent, message="alerts are delivered")
        usage = used()
        assert usage.used <= BUDGET
        assert usage.waiting == 100 - sent
        assert usage.day == "2026-11-27"
        clock.advance(hours=14, minutes=59)
        assert arrived(broker, "hulls") == sent
        assert is_spent()
        clock.advance(minutes=2)
        broker.wait_for(lambda _: arrived(broker, "hulls") > sent)
        assert sent_today(broker, 100) > sent + 30
        assert used().day == "2026-11-28"
        assert used().used <= BUDGET
        clock.advance(days=1)
        broker.wait_for(lambda _: arrived(broker, "hulls") == 100, timeout=20)
        eventually(lambda: status().depth == 0, message="all is delivered")
    assert not is_spent()


@pytest.mark.parametrize("app", ["zstd"], indirect=True)
def test_the_budget_counts_messages_as_they_leave_compressed(
    app: Flask, broker: MemoryBroker
) -> None:
    commit(100)
    with relaying(app):
        eventually(lambda: status().depth == 0, message="a day is enough for all of them")
        assert not is_spent()
        frames = [m.data for m in broker.messages if m.topic.endswith("/hulls")]
        assert len(frames) == 100
        assert all(is_frame(frame) for frame in frames)
        compressed = sum(map(len, frames))
        assert sum(len(decompress(one, lambda _: None)) for one in frames) > 60_000
        eventually(lambda: used().used > compressed, message="they are counted")
        assert used().used < ORDINARY


def test_what_is_held_back_is_no_fault_and_is_shown(app: Flask, broker: MemoryBroker) -> None:
    commit(100)
    with relaying(app):
        eventually(lambda: status().waits_for_budget, message="the rest waits")
        waiting = status().depth
        health = sync.runtime().health()
        assert health["status"] == "healthy"
        # Nothing is acknowledged for hours, and that is as it should be.
        assert not status().is_stalled(status().usage.resets_at - 1)
        assert f"{waiting} changes wait until midnight" in health["mqtt"]["reason"]
        usage = health["dataUsage"]
        assert (usage["limit"], usage["reserve"], usage["waiting"]) == (BUDGET, 5_000, waiting)
        assert usage["used"] + usage["left"] == BUDGET
        assert sum(usage["byKind"].values()) == usage["used"]
        assert usage["heldUntil"] == usage["resetsAt"] == "2026-11-27T23:00:00.000Z"
        said = app.test_cli_runner().invoke(args=["sync", "status"]).output
        assert "of 50 kB sent today" in said
        assert f"{waiting} changes wait until 2026-11-28 00:00" in said
        once = app.test_cli_runner().invoke(args=["sync", "relay", "--once", "--timeout", "60"])
        assert once.exit_code == 1
        assert f"{waiting} changes wait for the next day's data budget" in once.output


def test_the_sync_page_shows_what_was_used_and_what_waits(app: Flask, broker: MemoryBroker) -> None:
    app.register_blueprint(sync_page(allow=lambda _: True))
    client = app.test_client()

    def page() -> str:
        html = client.get("/sync/").get_data(as_text=True)
        text = re.sub(r"<[^>]*>", " ", html).replace("\u00a0", " ")
        return " ".join(text.split())

    commit(10)
    with relaying(app):
        eventually(lambda: status().depth == 0, message="delivered")
        assert "Data sent today" in page()
        assert "kB of 50 kB left, 5 kB of the budget reserved for urgent changes." in page()
        assert "How long it lasts is not known yet." in page()
        commit(100)
        eventually(lambda: status().waits_for_budget, message="the budget is spent")
        eventually(
            lambda: (
                f"Today's data budget is spent: {status().depth} changes wait until midnight"
                in page()
            ),
            message="the page says so",
        )
        assert "Catch-ups wait until midnight." in page()


def test_metrics_count_what_was_sent(app: Flask, broker: MemoryBroker) -> None:
    def metrics() -> dict[str, float]:
        samples = [s for family in sync.runtime().collector().collect() for s in family.samples]
        return {f"{s.name}{s.labels.get('kind', '')}": s.value for s in samples}

    before = metrics()
    assert before["arus_mqtt_bytes_sent_totalchanges"] == 0
    assert before["arus_mqtt_data_budget_bytes"] == before["arus_mqtt_data_left_bytes"] == BUDGET
    commit(100)
    with relaying(app):
        sent_today(broker, 100)
        after = metrics()
    assert after["arus_mqtt_data_held_changes"] == status().depth
    assert after["arus_mqtt_data_used_bytes"] + after["arus_mqtt_data_left_bytes"] == BUDGET
    assert bytes_on(broker, "hulls") <= after["arus_mqtt_bytes_sent_totalchanges"] <= BUDGET


def test_statuses_use_a_twentieth_of_a_small_budget() -> None:
    assert Budget(NOTHING, NOTHING, DataBudget(1_000_000)).pause_between(500) == 864
    assert Budget(NOTHING, NOTHING, DataBudget()).pause_between(500) == 0


def test_it_goes_on_after_a_restart_and_a_takeover(app: Flask, broker: MemoryBroker) -> None:
    commit(12)
    for round_number in range(1, 4):
        with relaying(app):
            eventually(lambda: status().depth == 0, message="delivered")
        counted = used().by_kind[Kind.CHANGES]
        assert bytes_on(broker, "hulls") <= counted
        assert counted == pytest.approx(
            bytes_on(broker, "hulls") + 12 * round_number * 25, rel=0.01
        )
        if round_number < 3:
            commit(12)
    commit(30)
    with relaying(app):
        eventually(is_spent, message="the budget is spent")
    assert bytes_on(broker, "hulls") <= ORDINARY


@pytest.mark.slow
def test_the_catchup_of_a_follower_takes_half_a_day_at_most_and_is_finished_later(
    app: Flask, broker: MemoryBroker, clock: Clock
) -> None:
    for _ in range(3):  # days
        commit(30)
        with relaying(app):
            eventually(lambda: status().depth == 0, message="delivered")
        clock.advance(days=1)
    sync.runtime().catchups.request({"entity": "hulls", "limit": None})
    days = []
    with relaying(app):
        while arrived(broker, "catchup/hulls") < 90:
            before = bytes_on(broker, "catchup/hulls")
            eventually(
                lambda: used().catchups_until is not None or arrived(broker, "catchup/hulls") == 90,
                message="the catch-ups' part is spent, or all is sent",
            )
            days.append(bytes_on(broker, "catchup/hulls") - before)
            # Changes go on meanwhile.
            commit(1)
            eventually(lambda: status().depth == 0, message="a change is delivered")
            statuses = [m.payload for m in broker.messages if m.topic.endswith("system/status")]
            if arrived(broker, "catchup/hulls") < 90:
                assert statuses[-1]["pausedUntil"] > statuses[-1]["timestamp"]
            clock.advance(days=1)
        (run,) = sync.runtime().catchups.recent()
        eventually(lambda: sync.runtime().catchups.recent()[0].finished, message="it is complete")
        eventually(
            lambda: "pausedUntil" not in broker.retained["vessel/sync/system/status"].payload,
            message="the status says so",
        )
    assert len(days) > 3
    assert max(days) <= ORDINARY // 2
    assert sync.runtime().catchups.recent()[0].catchup_id == run.catchup_id


@pytest.mark.slow
def test_changes_use_the_whole_window_while_a_catchup_waits_for_the_next_day(
    app: Flask, broker: MemoryBroker
) -> None:
    """The room kept for the catch-up would stay empty, and the relay would look all the time for what to put there."""
    sync.runtime().catchups.request({"entity": "hulls", "limit": None})
    with db.engine.begin() as connection:
        used_up = {"day": "2026-11-27", "sent": ORDINARY // 2 - 1}
        connection.execute(text("INSERT INTO arus_usage VALUES (:day, 'catchups', :sent)"), used_up)
    with relaying(app):
        topic = "vessel/sync/system/status"
        broker.wait_for(
            lambda _: topic in broker.retained and "pausedUntil" in broker.retained[topic].payload
        )
        broker.hold_acknowledgements()
        db.session.add_all(Hull(name="small") for _ in range(2 * START))
        db.session.commit()
        broker.wait_for(lambda _: arrived(broker, "hulls") == START)


def test_a_change_larger_than_a_day_is_sent_all_the_same(app: Flask, broker: MemoryBroker) -> None:
    db.session.add(Hull(name="x" * (BUDGET + 10_000)))
    db.session.commit()
    commit(1)
    with relaying(app):
        broker.wait_for(lambda _: arrived(broker, "hulls") == 1)
        eventually(is_spent, message="the budget is spent")
        assert arrived(broker, "hulls") == 1


class CountingProxy:
    """Forwards connections to a port, and counts the bytes that come from the client."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.outward = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            broker = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._forward, args=(client, broker, True), daemon=True).start()
            threading.Thread(
                target=self._forward, args=(broker, client, False), daemon=True
            ).start()

    def _forward(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        try:
            while data := source.recv(65_536):
                if counts:
                    with self._changed:
                        self.outward += len(data)
                        self._changed.notify_all()
                target.sendall(data)
        except OSError:
            pass  # the other direction has closed it
        finally:
            for each in (source, target):
                each.close()

    def reached(self, count: int, timeout: float = 30) -> bool:
        """Wait until so many bytes have come from clients."""
        with self._changed:
            return self._changed.wait_for(lambda: self.outward >= count, timeout)

    def close(self) -> None:
        self._server.close()


@pytest.mark.slow
@on_sqlite
@pytest.mark.parametrize("scheme", ["mqtt", "mqtts", "ws"])
def test_what_is_counted_is_what_leaves(
    scheme: str,
    start_mosquitto: Callable[..., Mosquitto],
    certificates: Certificates,
    start_vessel: StartVessel,
) -> None:
    mosquitto = start_mosquitto(certificates=certificates, websockets=True)
    ports = {"mqtt": mosquitto.port, "mqtts": mosquitto.tls_port, "ws": mosquitto.websockets_port}
    proxy = CountingProxy(ports[scheme] or 0)
    settings = {"MQTT_TLS_CA": certificates.ca} if scheme == "mqtts" else {}
    vessel = start_vessel(f"{scheme}://localhost:{proxy.port}", **settings)
    vessel.wait_connected()
    vessel.commit(50, data='{"id":"1","text":"%s"}' % ("x" * 500))
    vessel.commit(5, topic="alerts")
    vessel.wait_drained()
    vessel.stop()
    counted = usage_of(vessel)
    # The DISCONNECT leaves after the last transaction: 2 bytes, in TLS and WebSockets in a frame of their own.
    assert 0 <= proxy.outward - sum(counted.values()) <= {"mqtt": 2, "ws": 16, "mqtts": 60}[scheme]
    assert counted["changes"] > 50 * 500
    assert counted["statuses"] > 0


def usage_of(vessel: Vessel) -> dict[str, int]:
    return dict(vessel.query("SELECT kind, SUM(sent) FROM arus_usage GROUP BY kind"))


@pytest.mark.slow
@on_sqlite
def test_an_owner_that_is_killed_has_not_counted_too_little(
    mosquitto: Mosquitto, migrated_database_url: str, tmp_path: Path
) -> None:
    proxy = CountingProxy(mosquitto.port)
    settings = {
        "MQTT_BROKER_URL": f"mqtt://localhost:{proxy.port}",
        "MQTT_DATA_BUDGET": "1GB",
        "MQTT_MAX_INFLIGHT": 50,
    }
    with Vessel(migrated_database_url, **settings) as vessel:
        vessel.stop()
        vessel.commit(2_000, data='{"id":"1","text":"%s"}' % ("x" * 2_000))
        for wanted in (200_000, 500_000):
            with VesselProcess(migrated_database_url, tmp_path / "log", **settings) as process:
                assert proxy.reached(wanted), "it sends"
                process.kill()
            assert proxy.outward <= sum(usage_of(vessel).values())
        # What was counted in advance and did not leave: some windows.
        assert sum(usage_of(vessel).values()) <= proxy.outward + 2 * 50 * 2_500
        assert vessel.query("SELECT 1 FROM arus_lane WHERE depth > 0"), "it was killed in between"
