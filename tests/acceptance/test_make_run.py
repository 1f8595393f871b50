"""`make run`, as the README tells a newcomer to use it."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.http import request
from tests.support.make_run import MakeRun, copy_to, create_work_order
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import free_port

# one after the other: each `make run` takes port 1883 for its broker when it is free
pytestmark = pytest.mark.xdist_group("make run")


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[Callable[..., MakeRun]]:
    """Starts `make run` with settings of its own."""
    copy = copy_to(tmp_path / "copy")
    with ExitStack() as stack:

        def start(**settings: str) -> MakeRun:
            run = MakeRun(copy, {"PORT": str(free_port()), **settings})
            return stack.enter_context(run)

        yield start


@pytest.fixture
def run_again(
    make_run: Callable[..., MakeRun], tmp_path: Path, _migrated: Callable[[str], str]
) -> Callable[..., MakeRun]:
    """As make_run, where it has run before: the database is there."""
    instance = tmp_path / "copy" / "instance"
    instance.mkdir(mode=0o700)
    shutil.copy(_migrated("demo"), instance / "arus.sqlite")
    return make_run


def test_it_brings_up_a_ship_and_shows_a_change(make_run: Callable[..., MakeRun]) -> None:
    run = make_run()
    run.wait_ready()
    assert str(run.port) in run.wait_for_line(r"The ship is at http://")
    run.wait_for_line(r"messages: mosquitto at mqtt://127\.0\.0\.1:")
    create_work_order(run.port, "Fuel filter clogged")
    run.wait_for_line(r"vessel/sync/work_orders  create work_orders  #\d+  .*Fuel filter clogged")
    secret = run.copy / "instance" / "secret_key"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.read_text() not in run.output
    assert len(request(run.port, "GET", "/api/equipment?limit=200").json["items"]) > 50

    run.make.send(signal.SIGTERM)
    run.wait_for_line(r"vessel/sync/system/status  offline")
    run.assert_nothing_left()
    assert "ended by itself" not in run.output


def test_the_second_start_keeps_what_was_there(make_run: Callable[..., MakeRun]) -> None:
    for start in ("first", "second"):
        run = make_run()
        run.wait_ready()
        create_work_order(run.port, f"{start} start")
        found = request(run.port, "GET", "/api/work-orders?q=start&limit=200").json["items"]
        reasons = {row["reason"] for row in found}
        run.make.send(signal.SIGTERM)
        run.assert_nothing_left()
    assert {"first start", "second start"} <= reasons


def test_a_second_run_in_the_same_folder_is_refused(run_again: Callable[..., MakeRun]) -> None:
    run_again().wait_ready()
    second = run_again()
    second.wait_for_line("another `make run` is running in this folder")
    assert second.make.wait(20) != 0


def test_the_embedded_broker_serves_where_mosquitto_is_absent(
    run_again: Callable[..., MakeRun], tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for program in Path(folder).iterdir():
            link = programs / program.name
            if not program.name.startswith("mosquitto") and not link.is_symlink():
                link.symlink_to(program)
    run = run_again(PATH=str(programs))
    run.wait_ready()
    run.wait_for_line(r"messages: the embedded broker")
    create_work_order(run.port, "Bilge pump noisy")
    run.wait_for_line(r"vessel/sync/work_orders  create work_orders  #\d+  .*Bilge pump noisy")
    broker = Path("/proc", str(run.pid_of("tools.embedded_broker")), "environ").read_text()
    password = re.search(r"MQTT_PASSWORD=([^\0]+)", broker)
    assert password is not None
    assert password[1] not in run.output

    run.make.send(signal.SIGTERM)
    run.assert_nothing_left()


@pytest.mark.parametrize(
    ("victim", "sig"),
    [
        ("tools.run", signal.SIGINT),
        ("tools.run", signal.SIGTERM),
        ("tools.run", signal.SIGKILL),
        ("make", signal.SIGKILL),
    ],
    ids=["ctrl-c", "sigterm", "sigkill", "sigkill of make"],
)
def test_no_process_is_left(
    run_again: Callable[..., MakeRun], victim: str, sig: signal.Signals
) -> None:
    run = run_again()
    run.wait_ready()
    assert len(run.processes()) >= 6, run.processes()  # make, run, mosquitto, gunicorn, 2 workers
    os.kill(run.make.pid if victim == "make" else run.pid_of(victim), sig)
    run.assert_nothing_left()


def test_a_broker_that_ends_by_itself_is_started_again(run_again: Callable[..., MakeRun]) -> None:
    run = run_again()
    run.wait_ready()
    first = run.pid_of("mosquitto -c")
    os.kill(first, signal.SIGKILL)
    run.wait_for_line(r"mosquitto ended by itself \(signal SIGKILL\); it is started again in 5 s")
    create_work_order(run.port, "Saved without a broker")
    run.wait_for_line(r"the broker was started again")
    run.wait_for_line(r"vessel/sync/work_orders  create .*Saved without a broker")
    assert run.pid_of("mosquitto -c") != first
    run.make.send(signal.SIGTERM)
    run.assert_nothing_left()


def test_b_and_enter_stop_and_start_the_broker(run_again: Callable[..., MakeRun]) -> None:
    run = run_again()
    run.wait_ready()
    run.wait_for_line(r"b and Enter stops the broker")
    run.type("b\n")
    run.wait_for_line(r"the broker is stopped")
    assert not [pid for pid, command in run.processes().items() if "mosquitto -c" in command]
    create_work_order(run.port, "Saved in an outage")
    run.type("b\n")
    run.wait_for_line(r"the broker was started again")
    run.wait_for_line(r"vessel/sync/work_orders  create .*Saved in an outage")
    run.make.send(signal.SIGTERM)
    run.assert_nothing_left()


def test_a_broker_of_ones_own_is_not_stopped(
    run_again: Callable[..., MakeRun], mosquitto: Mosquitto
) -> None:
    run = run_again(MQTT_BROKER_URL=mosquitto.url)
    run.wait_ready()
    run.type("b\n")
    run.wait_for_line(r"the broker of MQTT_BROKER_URL was not started here, and is not stopped")
    assert mosquitto.running
    run.make.send(signal.SIGTERM)
    run.assert_nothing_left()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"MQTT_MAX_QUEUE_SIZE": "ten"}, r"MQTT_MAX_QUEUE_SIZE='ten' is not accepted; it takes"),
        ({"PORT": "eighty"}, r"PORT='eighty' is not accepted; it takes"),
    ],
)
def test_a_wrong_setting_is_one_line(
    make_run: Callable[..., MakeRun], settings: dict[str, str], line: str
) -> None:
    run = make_run(**{"PORT": str(free_port()), **settings})
    run.wait_for_line(line)
    assert run.make.wait(20) != 0
    assert "Traceback" not in run.output
    run.assert_nothing_left()
