"""Every command ends within two seconds of SIGTERM or Ctrl-C, whatever it waits for; a standby follower too."""

from __future__ import annotations

import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask

from arus.follower import Follower
from tests.support.follower import FollowerProcess, FollowerThread
from tests.support.gunicorn_app import ROOT, GunicornApp, clean_environment
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import PATIENCE, eventually
from tools.processes import Child

pytestmark = pytest.mark.slow

SIGNALS = [signal.SIGTERM, signal.SIGINT]
STANDING_BY = "standing by"
FOLLOWS = "shore is connected to"

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"])


@pytest.fixture
def active(shore: dict[str, str], tmp_path: Path) -> Iterator[FollowerProcess]:
    """A follower that works."""
    log = tmp_path / "active.log"
    with FollowerProcess(log, shore) as follower:
        eventually(lambda: FOLLOWS in log.read_text(), 30, message="it follows")
        yield follower


@pytest.fixture
def silent_broker() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    kept.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in kept:
        connection.close()


def end(child: Child, number: signal.Signals) -> int:
    """Send the signal; its exit code, which has to come within two seconds."""
    told_at = time.monotonic()
    child.send(number)
    code = child.wait(20)
    took = time.monotonic() - told_at
    assert took < 2 * PATIENCE, f"{took:.2f} s"
    return code


# -- a standby follower -------------------------------------------------------------------------------


@pytest.mark.usefixtures("active")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_standby_follower_ends_when_told(
    shore: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "standby.log"
    with FollowerProcess(log, shore) as standby:
        eventually(lambda: STANDING_BY in log.read_text(), 30, message="it stands by")
        assert end(standby.child, number) == 0
    assert FOLLOWS not in log.read_text()


@pytest.mark.usefixtures("active")
def test_a_standby_follower_ends_at_its_timeout(shore: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "standby.log"
    with FollowerProcess(log, shore, "--once", "--timeout", "1.5") as standby:
        eventually(lambda: STANDING_BY in log.read_text(), 30, message="it stands by")
        since = time.monotonic()
        assert standby.child.wait(20) == 1
        assert time.monotonic() - since < 3.5 * PATIENCE
    assert log.read_text().splitlines()[-1] == "Error: not caught up with all vessels"


def test_a_standby_follower_takes_over_within_a_second(
    active: FollowerProcess, shore: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "standby.log"
    with FollowerProcess(log, shore) as standby:
        eventually(lambda: STANDING_BY in log.read_text(), 30, message="it stands by")
        killed_at = time.monotonic()
        active.kill()
        eventually(lambda: FOLLOWS in log.read_text(), 30, interval=0.005, message="it follows")
        took = time.monotonic() - killed_at
        assert took < PATIENCE, f"{took:.2f} s"
        assert end(standby.child, signal.SIGTERM) == 0


def test_a_standby_follower_in_a_thread_can_be_stopped(
    make_app: Callable[..., Flask], migrated_database_url: str, mosquitto: Mosquitto
) -> None:
    app = make_app(migrated_database_url, LOCAL_MODE="false", MQTT_BROKER_URL=mosquitto.url)
    with FollowerThread(app) as working:
        eventually(lambda: working.status().following, 20, message="one follows")
        standby = Follower(app, "shore")
        thread = threading.Thread(target=standby.run)
        thread.start()
        standby.stop()
        thread.join(10)
        assert not thread.is_alive()
        assert working.status().following


# -- other commands -----------------------------------------------------------------------------------


def command(log_path: Path, settings: Mapping[str, str], *words: str) -> Child:
    argv = [str(Path(sys.executable).with_name("flask")), "--app", "wsgi", "sync", *words]
    with log_path.open("wb") as log:
        return Child("sync", argv, env=clean_environment(**settings), cwd=ROOT, output=log)


@on_sqlite
@pytest.mark.parametrize("scheme", ["mqtt", "mqtts"])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_follower_ends_while_the_broker_says_nothing(
    shore: dict[str, str],
    silent_broker: int,
    scheme: str,
    number: signal.Signals,
    tmp_path: Path,
) -> None:
    with FollowerProcess(
        tmp_path / "log", {**shore, "MQTT_BROKER_URL": f"{scheme}://127.0.0.1:{silent_broker}"}
    ) as follower:
        eventually(lambda: connects(follower.child.pid, silent_broker), 30, message="connects")
        assert end(follower.child, number) == 0


@on_sqlite
def test_a_catchup_ends_while_the_broker_says_nothing(
    shore: dict[str, str], silent_broker: int, tmp_path: Path
) -> None:
    url = f"mqtts://127.0.0.1:{silent_broker}"
    vessel = {**shore, "LOCAL_MODE": "true", "MQTT_BROKER_URL": url}
    child = command(tmp_path / "log", vessel, "catchup", "all", "--since", "1h")
    try:
        eventually(lambda: connects(child.pid, silent_broker), 30, message="connects")
        assert end(child, signal.SIGINT) == 130
    finally:
        child.kill()
    assert "stays queued" in (tmp_path / "log").read_text()


@on_sqlite
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("words", [("queue", "list"), ("follow",)], ids=" ".join)
def test_a_command_ends_while_sqlite_waits_for_a_lock(
    shore: dict[str, str], words: tuple[str, ...], number: signal.Signals, tmp_path: Path
) -> None:
    """SQLite waits in C, where Python hears no signal. One whose wait is just over ends by itself."""
    by_itself = {0} if words == ("follow",) else {1}
    path = tmp_path / "arus.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        child = command(tmp_path / "log", shore, *words)
        try:
            eventually(lambda: has_open(child.pid, path), 30, message="it opens the database")
            assert end(child, number) in {-number, 128 + number} | by_itself
        finally:
            child.kill()


@on_sqlite
def test_gunicorn_stops_at_once_with_workers_that_stand_by(
    start_app: Callable[..., GunicornApp],
) -> None:
    app = start_app(workers=3)
    app.wait_connected()
    told_at = time.monotonic()
    assert app.stop() == 0
    took = time.monotonic() - told_at
    assert took < 3 * PATIENCE, f"{took:.2f} s"


def connects(pid: int, port: int) -> bool:
    """Whether a process of this name has a connection to the port, by the kernel's account."""
    wanted = f"0100007F:{port:04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[2] == wanted}
    return bool(sockets & set(open_files(pid)))


def has_open(pid: int, path: Path) -> bool:
    return str(path) in open_files(pid)


def open_files(pid: int) -> list[str]:
    files = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            files.append(str(link.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    return files
