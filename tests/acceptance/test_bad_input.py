"""What goes wrong around the vessel: settings, brokers and databases that are not as they should be.

Each time the app says so, in a line that helps, and no change is lost.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Certificates
from tests.support.gunicorn_app import ROOT, GunicornApp, clean_environment, flask, run_flask
from tests.support.http import Answer
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually, free_port

SECRET = "for-tests-only-and-long-enough"
on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


# -- settings -----------------------------------------------------------------------------------------


def gunicorn(settings: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    """`gunicorn wsgi:app`, which is to end by itself."""
    return subprocess.run(
        [Path(sys.executable).with_name("gunicorn"), "wsgi:app", *args],
        cwd=ROOT,
        env=clean_environment(PORT=str(free_port()), **settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


@on_sqlite
@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("MQTT_MAX_QUEUE_SIZE", "ten", "whole number"),
        ("MQTT_BROKER_URL", "http://ashore", "mqtt://"),
        ("MQTT_BROKER_URL", "mqtt://:1883", "mqtt://"),
        ("LOCAL_MODE", "perhaps", "true or false"),
        ("MQTT_TLS_CA", "/no/such/file.pem", "PEM"),
        ("MQTT_TOPIC_PREFIX", "vessel/#", "topic"),
        ("MQTT_PROTOCOL", "4", "3.1.1"),
        ("MQTT_RECONNECT_PERIOD", "-1", "seconds"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(
    database_url: str, name: str, value: str, accepted: str
) -> None:
    settings = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET, name: value}

    # `gunicorn.conf.py` reads the settings for the one, `wsgi.py` for the other
    starts = [gunicorn(settings), run_flask("sync", "status", settings=settings)]
    if value == "ten":  # all the same to them is which setting it is
        starts += [
            gunicorn(settings, "--preload"),
            run_flask("db", "upgrade", settings=settings),
        ]
    for done in starts:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        assert done.returncode != 0, said
        assert len(said) == 1, said
        assert said[0].startswith(("error: ", "arus: "))
        assert name in said[0]
        assert value in said[0]
        assert accepted in said[0]


@on_sqlite
@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"SECRET_KEY": ""}, "SECRET_KEY"),
        ({"DATABASE_URL": "mysql://ship/arus"}, "DATABASE_URL"),
        ({"PORT": "http"}, "PORT"),
        ({"WEB_THREADS": "many"}, "WEB_THREADS"),
    ],
)
def test_a_wrong_setting_of_the_server_stops_it_with_one_line(
    database_url: str, settings: dict[str, str], name: str
) -> None:
    environment = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET, **settings}
    if "PORT" not in environment:
        environment["PORT"] = str(free_port())

    done = subprocess.run(
        [Path(sys.executable).with_name("gunicorn"), "wsgi:app"],
        cwd=ROOT,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=30,
    )

    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert done.returncode != 0, said
    assert len(said) == 1, said
    assert name in said[0]
    assert settings[name] in said[0]


@on_sqlite
def test_a_password_in_a_wrong_broker_url_is_not_told(database_url: str) -> None:
    settings = {"DATABASE_URL": database_url, "SECRET_KEY": SECRET}
    done = gunicorn({**settings, "MQTT_BROKER_URL": "http://captain:hunter2@ashore"})

    assert done.returncode != 0
    assert "MQTT_BROKER_URL" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


# -- brokers ------------------------------------------------------------------------------------------


def settings_for(database_url: str, broker_url: str, **settings: str) -> dict[str, str]:
    return {
        "LOCAL_MODE": "true",
        "DATABASE_URL": database_url,
        "SECRET_KEY": SECRET,
        "MQTT_BROKER_URL": broker_url,
        "MQTT_RECONNECT_PERIOD": "0.5",
        "MQTT_CONNECT_TIMEOUT": "2",
        **settings,
    }


def enter_equipment(app: GunicornApp, count: int) -> list[str]:
    """Post `count` pieces of equipment, each of which must succeed; their ids."""
    ids = []
    for n in range(count):
        answer = app.post("/api/equipment", {"name": f"Pump {n}", "type": "pump"})
        assert answer.status == 201, answer.text
        ids.append(answer.json["id"])
    return ids


def check_degraded(app: GunicornApp, waiting: int) -> None:
    health = app.health()
    assert health["status"] == "degraded"
    assert health["mqtt"]["status"] == "disconnected"
    assert health["mqtt"]["queuedMessages"] == waiting


def subscribed(directory: Path, port: int, *options: str) -> tuple[Mosquitto, Subscriber]:
    """A broker that is down, and a subscriber of which it has the session: nothing is missed when it is back."""
    broker = Mosquitto(directory, port=port, options=options)
    subscriber = Subscriber(port, "vessel/sync/equipment", client_id="ashore")
    with broker, subscriber:
        subscriber.stop()
        broker.stop()  # it saves the session, which a killed one may not have done yet
    return broker, subscriber


def check_arrived(subscriber: Subscriber, ids: list[str]) -> None:
    """Each of the rows arrives, in the order of the commits, under numbers without a gap."""
    subscriber.wait_until(lambda: len(subscriber.changes()) >= len(ids), 20, "all the changes")
    firsts = {change["seq"]: change["data"]["id"] for change in subscriber.changes()}
    assert list(firsts) == list(range(1, len(ids) + 1))
    assert list(firsts.values()) == ids


@on_sqlite
def test_changes_wait_for_a_broker_that_is_not_there(
    tmp_path: Path, migrated_database_url: str
) -> None:
    port = free_port()
    broker, subscriber = subscribed(tmp_path / "broker", port)
    settings = settings_for(migrated_database_url, f"mqtt://127.0.0.1:{port}")
    with GunicornApp(tmp_path, settings) as app:
        ids = enter_equipment(app, 20)
        check_degraded(app, 20)
        eventually(lambda: "[MQTT Reliable Sync]" in app.log and "can't be reached" in app.log)

        with broker, subscriber:
            app.wait_connected()
            check_arrived(subscriber, ids)
            # from now on at once
            ids += enter_equipment(app, 1)
            check_arrived(subscriber, ids)


@on_sqlite
def test_changes_wait_for_a_broker_that_refuses_us(
    tmp_path: Path, migrated_database_url: str
) -> None:
    port = free_port()
    settings = settings_for(
        migrated_database_url, f"mqtt://127.0.0.1:{port}", MQTT_USERNAME="vessel"
    )
    settings["MQTT_PASSWORD"] = "hunter2"
    broker, subscriber = subscribed(tmp_path / "lenient", port)
    with GunicornApp(tmp_path, settings) as app:
        with Mosquitto(tmp_path / "strict", port=port, users={"vessel": "another"}):
            ids = enter_equipment(app, 20)
            eventually(lambda: "ot authori" in app.log, message="the refusal is logged")
            check_degraded(app, 20)

        with broker, subscriber:
            app.wait_connected()
            check_arrived(subscriber, ids)
        assert "hunter2" not in app.log


@on_sqlite
def test_changes_wait_for_a_broker_to_speak_tls(
    tmp_path: Path, migrated_database_url: str, certificates: Certificates
) -> None:
    port, plain = free_port(), free_port()
    settings = settings_for(
        migrated_database_url, f"mqtts://localhost:{port}", MQTT_TLS_CA=str(certificates.ca)
    )
    broker, subscriber = subscribed(
        tmp_path / "tls",
        plain,
        f"listener {port} 127.0.0.1",
        f"cafile {certificates.ca}",
        f"certfile {certificates.server_cert}",
        f"keyfile {certificates.server_key}",
    )
    with GunicornApp(tmp_path, settings) as app:
        with Mosquitto(tmp_path / "plain", port=port):
            ids = enter_equipment(app, 20)
            eventually(lambda: "does the broker speak TLS there?" in app.log)
            check_degraded(app, 20)

        with broker, subscriber:
            app.wait_connected()
            check_arrived(subscriber, ids)
            assert app.health()["mqtt"]["tlsEnabled"] is True


# -- databases ----------------------------------------------------------------------------------------

LOCKED_FOR = 12

_LOCK = """
import sqlite3, sys, threading
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
threading.Event().wait(float(sys.argv[2]))
connection.execute("ROLLBACK")
"""


@contextmanager
def locked(database: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Another process holds SQLite's write lock for `seconds`."""
    argv = [sys.executable, "-c", _LOCK, str(database), str(seconds)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            yield process
            assert process.wait(seconds + 10) == 0
        finally:
            process.kill()


@on_sqlite
def test_a_locked_database_costs_patience_and_no_change(
    tmp_path: Path, start_app: Callable[..., GunicornApp], subscriber: Subscriber
) -> None:
    app = start_app(workers=4)
    app.wait_connected()
    ids = set(enter_equipment(app, 5))

    def enter(n: int) -> Answer:
        body = {"name": f"Valve {n}", "type": "valve"}
        return app.post("/api/equipment", body, {"Idempotency-Key": f"valve-{n}"})

    with ThreadPoolExecutor(8) as clients, locked(tmp_path / "arus.sqlite", LOCKED_FOR):
        answers = list(clients.map(enter, range(8)))

    # what the lock outlasted is told so, in time, and can be sent again
    assert {answer.status for answer in answers} <= {201, 503}
    refused = [n for n, answer in enumerate(answers) if answer.status == 503]
    assert refused, "the lock was held longer than a write waits"
    for n in refused:
        assert answers[n].headers["Content-Type"] == "application/problem+json"
        assert "busy" in answers[n].json["detail"]
    again = [enter(n) for n in refused]
    assert {answer.status for answer in again} == {201}

    ids |= {answer.json["id"] for answer in [*answers, *again] if answer.status == 201}
    assert len(ids) == 5 + 8
    listed = {item["id"] for item in app.get("/api/equipment?limit=200").json["items"]}
    assert listed == ids
    subscriber.wait_until(lambda: len(subscriber.changes()) >= len(ids), 20, "all the changes")
    changes = subscriber.changes()
    assert {change["data"]["id"] for change in changes} == ids
    assert [change["seq"] for change in changes] == list(range(1, len(ids) + 1))
    eventually(lambda: app.health()["mqtt"]["queuedMessages"] == 0, interval=0.1)


def test_a_database_that_is_not_migrated_is_told_and_needs_no_restart(
    tmp_path: Path, database_url: str, mosquitto: Mosquitto, subscriber: Subscriber
) -> None:
    settings = settings_for(database_url, mosquitto.url)
    app = GunicornApp(tmp_path, settings)
    app.start(wait=False)
    try:
        eventually(lambda: app.get("/healthz").status == 200, 20, interval=0.1)
        body = {"name": "Pump", "type": "pump"}
        requests: list[tuple[str, str, Any]] = [
            ("POST", "/api/equipment", body),
            ("GET", "/api/equipment", None),
            ("GET", "/readyz", None),
            ("GET", "/api/mqtt/reliable-sync/health", None),
        ]
        for method, path, content in requests:
            answer = app.request(method, path, content)
            assert answer.status == 503, f"{method} {path}: {answer.text}"
            assert "flask --app wsgi db upgrade" in answer.text, f"{method} {path}: {answer.text}"
        assert app.get("/metrics").status in {200, 503}

        flask("db", "upgrade", settings=settings)

        eventually(lambda: app.get("/readyz").status == 200)
        ids = enter_equipment(app, 3)
        check_arrived(subscriber, ids)
        assert app.wait_connected()
        assert "Traceback" not in app.log
    finally:
        print(app.log[-6000:])
        app.kill_all()
