"""A follower that stands by: it works when the active one has ended, and ends when it is told to."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.follower import FollowerProcess
from tests.support.gunicorn_app import run_flask
from tests.support.waiting import eventually


def stands_by(log: Path) -> bool:
    return "standing by" in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_stands_by_ends_at_once_when_it_is_told_to(
    number: signal.Signals, shore: dict[str, str], tmp_path: Path
) -> None:
    active_log, log = tmp_path / "active.log", tmp_path / "standby.log"
    with FollowerProcess(active_log, shore) as active:
        eventually(lambda: "follows at" in active_log.read_text(), message="one works")
        with FollowerProcess(log, shore) as standby:
            eventually(lambda: stands_by(log), message="the other stands by")
            began = time.monotonic()
            os.kill(standby.child.pid, number)
            eventually(lambda: standby.child.returncode() is not None, message="it ends")
            took = time.monotonic() - began
            assert standby.child.returncode() == 0, log.read_text()
        assert took < 2
        assert active.child.returncode() is None
        with FollowerProcess(log, shore):
            eventually(lambda: log.read_text().count("standing by") == 2)
            active.kill()
            eventually(lambda: "follows at" in log.read_text(), message="it takes over")


def test_one_that_stands_by_gives_up_at_its_timeout(shore: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "active.log"
    with FollowerProcess(log, shore):
        eventually(lambda: "follows at" in log.read_text(), message="one works")
        began = time.monotonic()
        done = run_flask("sync", "follow", "--once", "--timeout", "1", settings=shore)
        took = time.monotonic() - began
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "Error: not caught up with all vessels"
    assert 1 <= took < 10  # a process takes its time to begin on a busy machine
