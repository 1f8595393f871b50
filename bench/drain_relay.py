"""One drain with the relay, in a separate process.

`python -m bench.drain_relay DATABASE BROKER_URL` delivers the undelivered changes in the log of a SQLite database
and prints JSON: seconds from the connection to the last acknowledgement, CPU
seconds, seconds from the start to the connection, and the growth of the peak memory in bytes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import threading
import time
from pathlib import Path
from typing import Any

from app import create_app
from arus import signals
from arus.gunicorn import shorten_pauses
from arus.relay.loop import Relay
from bench.backlog import settings
from extensions import sync


def run(
    database: str, broker_url: str, protocol: str, compression: str, profile: str | None
) -> dict[str, Any]:
    """Drain the log and measure it.

    :param protocol: as in MQTT_PROTOCOL.
    :param compression: as in MQTT_COMPRESSION.
    :param profile: the file to write a profile to; the figures are then distorted.
    """
    made = settings(Path(database), broker_url)
    app = create_app({**made, "MQTT_PROTOCOL": protocol, "MQTT_COMPRESSION": compression})
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
        Relay.run = lambda self, done=None: profiler.runcall(drive, self, done)  # type: ignore[method-assign]
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
    """Return the peak memory of this process so far, in bytes."""
    # getrusage returns the parent's peak if that was larger at the fork.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.drain_relay")
    parser.add_argument("database")
    parser.add_argument("broker_url")
    parser.add_argument("--protocol", default="auto")
    parser.add_argument("--compression", default="off")
    parser.add_argument("--profile")
    print(json.dumps(run(**vars(parser.parse_args()))))
