"""`make run`, as the README tells a newcomer to use it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest

from tests.support.gunicorn_app import ROOT, clean_environment
from tests.support.http import request
from tests.support.lifecycle import Started
from tests.support.waiting import eventually, free_port
from tools.processes import Child

#: what a copy needs to run; the virtual environment is shared
PARTS = (
    *("Makefile", "app.py", "arus", "blueprints", "extensions", "gunicorn.conf.py"),
    *("migrations", "requirements.lock", "tools", "wsgi.py"),
)


class MakeRun(Started):
    """`make run` in a fresh copy of the repository, so that its instance folder is a new one."""

    def __init__(self, copy: Path, settings: dict[str, str]) -> None:
        self.copy = copy
        self.port = int(settings["PORT"]) if settings["PORT"].isdecimal() else 0
        self.lines: list[str] = []
        self._env = clean_environment(**settings)
        self._grown = threading.Condition()

    def start(self) -> Self:
        self.make = Child(
            "make run",
            ["make", "--no-print-directory", "run"],
            cwd=self.copy,
            env=self._env,
            output=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    @property
    def output(self) -> str:
        with self._grown:
            return "\n".join(self.lines)

    def wait_for_line(self, pattern: str, timeout: float = 60) -> str:
        """The first line that matches, printed or still to come."""

        def found() -> list[str]:
            return [line for line in self.lines if re.search(pattern, line)]

        with self._grown:
            ended = self._grown.wait_for(
                lambda: found() or not self._reader.is_alive() or self._ended, timeout
            )
            matches = found()
        assert matches, f"no line {pattern!r} ({'ended' if ended else 'timeout'}):\n{self.output}"
        return matches[0]

    def wait_ready(self) -> None:
        self.wait_for_line(r"The ship is at http://")

    def processes(self) -> dict[int, str]:
        """All processes that work in the copy: whatever this run started."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if (entry / "cwd").resolve() == self.copy or str(self.copy) in command:
                    found[int(entry.name)] = command
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # ended while we looked
        return found

    def pid_of(self, words: str) -> int:
        """The one process whose command holds `words` and that is the oldest of its kind."""
        return min(pid for pid, command in self.processes().items() if words in command)

    def assert_nothing_left(self, timeout: float = 20) -> None:
        eventually(lambda: not self.processes(), timeout, message=f"all ended: {self.processes()}")

    def close(self) -> None:
        print(self.output[-8000:])
        self.make.send(signal.SIGKILL)
        self.make.wait(10)
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self._reader.join(10)
        self.make.kill()

    _ended = False

    def _read(self) -> None:
        for line in self.make.stdout:
            with self._grown:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self._grown.notify_all()
        with self._grown:
            self._ended = True
            self._grown.notify_all()


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[Callable[..., MakeRun]]:
    """Starts `make run` with settings of its own."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for part in PARTS:
        place = ROOT / part
        if place.is_dir():
            shutil.copytree(place, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, copy / part)
    _share_virtual_environment(copy)
    with ExitStack() as stack:

        def start(**settings: str) -> MakeRun:
            run = MakeRun(copy, {"PORT": str(free_port()), **settings})
            return stack.enter_context(run)

        yield start


def _share_virtual_environment(copy: Path) -> None:
    """A `.venv` that finds this one's packages, with the stamps that say it is up to date."""
    venv.create(copy / ".venv", symlinks=True)
    packages = Path(sysconfig.get_path("purelib"))
    place = copy / ".venv" / packages.relative_to(sys.prefix)
    (place / "shared.pth").write_text(f"{packages}\n")
    digest = hashlib.sha256((copy / "requirements.lock").read_bytes()).hexdigest()
    (copy / ".venv" / ".made-in").write_text(f"{copy}\n")
    (copy / ".venv" / ".installed-requirements.lock").write_text(f"{digest}  - {copy}\n")


def _create_work_order(port: int, reason: str) -> None:
    equipment = request(port, "GET", "/api/equipment?limit=1").json["items"][0]
    answer = request(
        port, "POST", "/api/work-orders", {"equipmentId": equipment["id"], "reason": reason}
    )
    assert answer.status == 201, answer.text


def test_it_brings_up_a_ship_and_shows_a_change(make_run: Callable[..., MakeRun]) -> None:
    run = make_run()
    run.wait_ready()
    assert str(run.port) in run.wait_for_line(r"The ship is at http://")
    run.wait_for_line(r"messages: mosquitto at mqtt://127\.0\.0\.1:")
    _create_work_order(run.port, "Fuel filter clogged")
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
        _create_work_order(run.port, f"{start} start")
        found = request(run.port, "GET", "/api/work-orders?q=start&limit=200").json["items"]
        reasons = {row["reason"] for row in found}
        run.make.send(signal.SIGTERM)
        run.assert_nothing_left()
    assert {"first start", "second start"} <= reasons


def test_a_second_run_in_the_same_folder_is_refused(make_run: Callable[..., MakeRun]) -> None:
    make_run().wait_ready()
    second = make_run()
    second.wait_for_line("another `make run` is at work in this folder")
    assert second.make.wait(20) != 0


def test_the_embedded_broker_serves_where_mosquitto_is_absent(
    make_run: Callable[..., MakeRun], tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for program in Path(folder).iterdir():
            link = programs / program.name
            if not program.name.startswith("mosquitto") and not link.is_symlink():
                link.symlink_to(program)
    run = make_run(PATH=str(programs))
    run.wait_ready()
    run.wait_for_line(r"messages: the embedded broker")
    _create_work_order(run.port, "Bilge pump noisy")
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
    make_run: Callable[..., MakeRun], victim: str, sig: signal.Signals
) -> None:
    run = make_run()
    run.wait_ready()
    assert len(run.processes()) >= 6, run.processes()  # make, run, mosquitto, gunicorn, 2 workers
    os.kill(run.make.pid if victim == "make" else run.pid_of(victim), sig)
    run.assert_nothing_left()


def test_it_says_so_and_stops_when_the_broker_dies(make_run: Callable[..., MakeRun]) -> None:
    run = make_run()
    run.wait_ready()
    os.kill(run.pid_of("mosquitto -c"), signal.SIGKILL)
    run.wait_for_line(r"make run: mosquitto ended by itself \(signal SIGKILL\)")
    assert run.make.wait(20) != 0
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
