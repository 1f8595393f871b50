"""The example: another application on the same extension, with the sync page under its own prefix and rule."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.support import http
from tests.support.gunicorn_app import ROOT, clean_environment
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually, free_port
from tools.processes import Child

APP = "examples.catch_log.app"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def start_catch_log(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Callable[[], int]]:
    """Starts the example under gunicorn with two workers, and returns its port."""
    children: list[Child] = []
    program = Path(sys.executable)

    def start() -> int:
        port = free_port()
        environment = clean_environment(
            SECRET_KEY="for-tests-only-and-long-enough",
            DATABASE_URL=f"sqlite:///{tmp_path}/catch.sqlite",
            LOCAL_MODE="true",
            MQTT_BROKER_URL=mosquitto.url,
            MQTT_RECONNECT_PERIOD="1",
            HOST="127.0.0.1",
            PORT=str(port),
            WEB_CONCURRENCY="2",
        )
        init = [str(program.with_name("flask")), "--app", APP, "init-db"]
        subprocess.run(init, cwd=ROOT, env=environment, check=True, timeout=60)
        with (tmp_path / "catch.log").open("ab") as log:
            argv = [str(program.with_name("gunicorn")), f"{APP}:app"]
            children.append(Child("catch log", argv, env=environment, cwd=ROOT, output=log))

        def answers() -> bool:
            return http.request(port, "GET", "/").status == 200

        eventually(answers, 60, message="the catch log answers")
        return port

    yield start
    for child in children:
        child.kill()


def enter(port: int, role: str) -> dict[str, str]:
    """The headers of somebody who has said who they are."""
    body = urlencode({"role": role}).encode()
    answer = http.request(port, "POST", "/door", body, FORM)
    assert answer.status == 303
    return {"Cookie": answer.headers["Set-Cookie"].split(";")[0]}


def test_a_haul_reaches_the_shore_and_the_skipper_sees_it(
    start_catch_log: Callable[[], int], start_subscriber: Callable[..., Subscriber]
) -> None:
    shore = start_subscriber("vessel/sync/hauls")
    port = start_catch_log()
    body = urlencode({"species": "Cod", "kilograms": "412.5"}).encode()
    assert http.request(port, "POST", "/hauls", body, FORM).status == 303
    message = shore.wait_for(lambda received: "Cod" in received.payload)
    assert message.json["data"]["kilograms"] == 412.5
    assert (message.json["entity"], message.json["operation"]) == ("hauls", "create")

    stranger = http.request(port, "GET", "/bridge/link/")
    assert (stranger.status, stranger.headers["Location"]) == (302, "/door")
    crew = enter(port, "crew")
    for path in ("/bridge/link/", "/bridge/link/live", "/bridge/api/health"):
        assert http.request(port, "GET", path, headers=crew).status == 403, path

    skipper = enter(port, "skipper")
    page = http.request(port, "GET", "/bridge/link/", headers=skipper)
    assert page.status == 200
    assert "Catch log of the" in page.text
    assert "Changes by state" in page.text

    def delivered() -> bool:
        answer = http.request(port, "GET", "/bridge/api/changes?state=delivered", headers=skipper)
        return len(answer.json["items"]) == 1

    eventually(delivered, 30, message="the haul is delivered")
    listed = http.request(port, "GET", "/bridge/link/changes?state=delivered", headers=skipper)
    assert len(re.findall(r'href="/bridge/link/changes/\d+_', listed.text)) == 1


def test_what_is_wrong_with_a_haul_is_said(start_catch_log: Callable[[], int]) -> None:
    port = start_catch_log()
    body = urlencode({"species": "", "kilograms": "many"}).encode()
    refused = http.request(port, "POST", "/hauls", body, FORM)
    assert refused.status == 422
    assert set(refused.json) == {"species", "kilograms"}
