"""`flask sync catchup`: beside a server and without one, with the broker there and away, for people and programs."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.support.gunicorn_app import ROOT, GunicornApp, clean_environment, run_flask
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually, free_port

pytestmark = pytest.mark.slow

BASE = {
    "SECRET_KEY": "for-tests-only-and-long-enough",
    "LOCAL_MODE": "true",
    "MQTT_RECONNECT_PERIOD": "0.3",
}
CATCHUP = "/api/mqtt/reliable-sync/catchup"


@pytest.fixture
def ship(migrated_database_url: str, mosquitto: Mosquitto, make_app: Any) -> dict[str, str]:
    """The settings of a vessel with three people on board, none of whom the broker knows of."""
    app = make_app(migrated_database_url)
    app.before_request_funcs[None] = []  # no candidate for ownership in this process
    client = app.test_client()
    for name in ("Ada", "Bo", "Cy"):
        assert client.post("/api/crew", json={"name": name}).status_code == 201
    return {**BASE, "DATABASE_URL": migrated_database_url, "MQTT_BROKER_URL": mosquitto.url}


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `flask sync catchup ...`; what still runs is killed after the test."""
    with ExitStack() as stack:

        def spawn(*words: str, settings: dict[str, str], **options: Any) -> subprocess.Popen[str]:
            argv = [
                str(Path(sys.executable).with_name("flask")),
                "--app",
                "wsgi",
                "sync",
                "catchup",
            ]
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
            env = clean_environment(**settings)
            process = stack.enter_context(
                subprocess.Popen([*argv, *words], cwd=ROOT, env=env, text=True, **streams)
            )
            stack.callback(process.kill)
            return process

        yield spawn


def items(subscriber: Subscriber) -> list[dict[str, Any]]:
    """The items of catch-ups that a subscriber has seen."""
    return [
        payload
        for payload in subscriber.payloads
        if isinstance(payload, dict) and payload.get("type") == "catchup"
    ]


def wait_ended(subscriber: Subscriber, count: int) -> None:
    def ended() -> bool:
        kinds = [p.get("type") for p in subscriber.payloads if isinstance(p, dict)]
        return kinds.count("catchup_end") >= count

    subscriber.wait_until(ended, 40, f"{count} catch-ups have ended")


def test_without_a_server_it_does_the_work_itself(
    ship: dict[str, str], subscriber: Subscriber
) -> None:
    done = run_flask("sync", "catchup", "crew", "--since", "2h", settings=ship)
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[0] == "crew: 3 sent (log)"
    assert done.stdout.splitlines()[1].startswith("complete: 3 sent, catch-up ")
    assert done.stderr == ""
    wait_ended(subscriber, 1)
    assert [item["data"]["name"] for item in items(subscriber)] == ["Ada", "Bo", "Cy"]


def test_beside_a_server_the_server_does_the_work(
    ship: dict[str, str], start_app: Callable[..., GunicornApp], subscriber: Subscriber
) -> None:
    server = start_app()
    owner = eventually(lambda: server.health()["owner"], 30, message="a worker owns")
    done = run_flask("sync", "catchup", "all", "--all", "--json", settings=ship)
    assert done.returncode == 0, done
    document = json.loads(done.stdout)
    assert (document["status"], document["published"], document["total"]) == ("complete", 3, 3)
    assert server.health()["owner"] == owner
    wait_ended(subscriber, 5)
    answer = server.get(f"{CATCHUP}/{document['catchupId']}").json
    assert answer == document
    assert answer["origin"] == "cli"


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_limit_is_kept_and_what_lies_beyond_is_said(
    ship: dict[str, str], subscriber: Subscriber
) -> None:
    done = run_flask("sync", "catchup", "crew", "--since", "1d", "--limit", "2", settings=ship)
    assert done.returncode == 0, done
    assert "there is more beyond the limit" in done.stderr
    wait_ended(subscriber, 1)
    assert len(items(subscriber)) == 2


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_the_broker_is_waited_for(
    ship: dict[str, str],
    start_mosquitto: Callable[..., Mosquitto],
    spawn: Callable[..., subprocess.Popen[str]],
) -> None:
    port = free_port()
    away = {**ship, "MQTT_BROKER_URL": f"mqtt://127.0.0.1:{port}"}
    process = spawn("crew", "--all", settings=away)
    assert process.stderr
    said = process.stderr.readline()
    assert said.startswith("there is no connection to the broker (")
    assert "can't be reached" in said
    start_mosquitto(port=port)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, (out, err)
    assert "complete: 3 sent" in out
    assert err == ""  # it was said once


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_left_alone_it_stays_queued_for_the_next(
    ship: dict[str, str],
    spawn: Callable[..., subprocess.Popen[str]],
    start_app: Callable[..., GunicornApp],
) -> None:
    away = {**ship, "MQTT_BROKER_URL": f"mqtt://127.0.0.1:{free_port()}"}
    process = spawn("crew", "--all", "--json", settings=away)
    assert process.stderr
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    document = json.loads(out)
    assert document["status"] == "queued"
    assert err.strip() == f"interrupted: catch-up {document['catchupId']} stays queued"
    server = start_app()

    def complete() -> bool:
        answer = server.get(f"{CATCHUP}/{document['catchupId']}").json
        return bool(answer["status"] == "complete")

    eventually(complete, 40, message="the server has carried it out")


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_on_a_terminal_there_is_a_bar(
    ship: dict[str, str], spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    ours, theirs = pty.openpty()
    process = spawn("crew", "--all", settings={**ship, "TERM": "xterm"}, stdout=theirs)
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 4096):
            seen += piece
    except OSError:
        pass  # how a pseudo-terminal says that nobody is at its other end any more
    os.close(ours)
    assert process.wait(60) == 0, seen
    assert b"crew" in seen
    assert b"3/3" in seen
    assert b"complete: 3 sent" in seen


# -- usage: in this process ------------------------------------------------------------------------


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["crew"], 2, "give --since, or --all"),
        (["crew", "--since", "yesterday"], 2, "neither a time"),
        (["crew", "--since", "2h", "--limit", "0"], 2, "0 is not in the range"),
        (["crew", "--limit", "3", "--all"], 2, "can't be combined"),
        (["invoices", "--all"], 1, "there is no entity 'invoices'"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    app: Flask, words: list[str], code: int, says: str
) -> None:
    done = app.test_cli_runner().invoke(args=["sync", "catchup", *words])
    assert done.exit_code == code
    assert says in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_ashore_there_is_nothing_to_send(
    make_app: Callable[..., Flask], migrated_database_url: str
) -> None:
    app = make_app(migrated_database_url, LOCAL_MODE="false")
    done = app.test_cli_runner().invoke(args=["sync", "catchup", "all", "--all"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "LOCAL_MODE is false" in done.stderr


def test_a_database_that_is_not_migrated(make_app: Callable[..., Flask], database_url: str) -> None:
    app = make_app(database_url)
    done = app.test_cli_runner().invoke(args=["sync", "catchup", "all", "--all"])
    assert done.exit_code == 1
    assert "is it migrated? flask db upgrade" in done.stderr
