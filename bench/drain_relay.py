"""One drain by the relay, in a process of its own.

`python -m bench.drain_relay DATABASE BROKER_URL [PROFILE]` delivers what waits in the log of a
SQLite database and prints JSON: seconds from the connection to the last acknowledgement, processor
seconds, seconds from the start to the connection, and by how many bytes the peak memory grew.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import sys
import threading
import time
from pathlib import Path
from typing import Any

from app import create_app
from arus import signals
from arus.gunicorn import shorten_pauses
from arus.relay import Relay
from bench.backlog import settings
from extensions import sync


def run(database: str, broker_url: str, profile: str | None) -> dict[str, Any]:
    """Drain, and measure it."""
    app = create_app(settings(Path(database), broker_url))
    began: list[tuple[float, float]] = []
    ended: list[tuple[float, float]] = []
    flushed = threading.Event()

    def connected(_sender: object, **_details: object) -> None:
        began.append((time.perf_counter(), time.process_time()))

    def queue_flushed(_sender: object, **_details: object) -> None:
        ended.append((time.perf_counter(), time.process_time()))
        flushed.set()

    signals.connected.connect(connected)
    signals.queue_flushed.connect(queue_flushed)
    profiler = cProfile.Profile(builtins=False) if profile else None
    if profiler is not None:
        drive = Relay.run
        Relay.run = lambda self: profiler.runcall(drive, self)  # type: ignore[method-assign]
    shorten_pauses()  # as in each worker of the server
    before, called = _peak(), time.perf_counter()
    sync.start(app)
    if not flushed.wait(600):
        raise SystemExit("the backlog was not drained within 600 s")
    sync.stop(app)
    if profiler is not None and profile is not None:
        with open(profile, "w") as file:
            pstats.Stats(profiler, stream=file).sort_stats("tottime").print_stats(40)
    return {
        "seconds": ended[0][0] - began[0][0],
        "cpu": ended[0][1] - began[0][1],
        "ready": began[0][0] - called,
        "memory": _peak() - before,
    }


def _peak() -> int:
    """The peak memory of this process so far, in bytes."""
    # getrusage tells the parent's, where that was larger when it forked.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)))
