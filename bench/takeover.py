"""How soon do acknowledgements resume after the owner was killed, or after the broker returned?"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench.latency import new_database, wait_owned
from bench.listener import Arrival, Listener
from bench.report import Report, machine
from bench.request_cost import QUIET_BROKER
from bench.worker import Worker
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import eventually

ROUNDS = 5
#: The setting of bench.worker, in seconds.
RECONNECT_PERIOD = 1.0
WAITING = 200


def run(rounds: int = ROUNDS) -> Report:
    """Kill owners during a stream of changes; then stop and restart the broker."""
    report = Report(
        "takeover",
        "How soon do acknowledgements resume after SIGKILL of the owner, and after the broker's return?",
        {
            "rounds": rounds,
            "takeover": "to the first change that the next owner publishes, as a subscriber sees it",
            "return": "from the first moment at which the broker accepts connections to the first"
            " acknowledgement of a change that had waited",
            "database": "SQLite, synchronous=FULL",
        },
        machine=machine(),
    )
    with (
        tempfile.TemporaryDirectory(prefix="arus-bench-") as name,
        Mosquitto(Path(name, "broker"), options=QUIET_BROKER) as broker,
    ):
        database = new_database(Path(name), broker.url)
        report.add(
            "**SIGKILL of the owner to the next acknowledgement**",
            "ms",
            _takeovers(database, broker, rounds),
            "<= 50",
        )
        back = _returns(database, broker, rounds)
        title = "broker back to the first flushed change, beyond the reconnect period"
        report.add(title, "ms", back)
        report.add(f"**{title}: the longest**", "ms", [max(back)], "<= 100")
    return report


def _takeovers(database: Path, broker: Mosquitto, rounds: int) -> list[float]:
    times = []
    with (
        Listener(broker.port) as listener,
        Worker(database, broker.url, writer=True).ready() as writer,
    ):
        candidates = {worker.pid: worker for worker in _start(database, broker, 2)}
        try:
            for number in range(rounds):
                owner = wait_owned(database)
                listener.clear()
                writer.ask("commit 150 0.005")
                listener.wait(lambda arrivals: len(arrivals) > 30)
                killed = time.monotonic()
                os.kill(owner, signal.SIGKILL)
                times.append((listener.wait(_next_owners) - killed) * 1000)
                listener.wait_for({message_id for message_id, _ in writer.answer()})
                candidates.pop(owner).kill()
                for worker in _start(database, broker, 1):
                    candidates[worker.pid] = worker
                print(f"takeover: {number + 1} of {rounds}", file=sys.stderr)
        finally:
            for worker in candidates.values():
                worker.kill()
    return times


def _start(database: Path, broker: Mosquitto, count: int) -> list[Worker]:
    return [Worker(database, broker.url).ready() for _ in range(count)]


def _next_owners(arrivals: list[Arrival]) -> float | None:
    """Return when the first change arrived after a new owner's `online`."""
    online = False
    for at, topic, body in arrivals:
        if topic == "system/status":
            online = online or body.get("status") == "online"
        elif online and body.get("type") == "data_change":
            return at
    return None


def _returns(database: Path, broker: Mosquitto, rounds: int) -> list[float]:
    times = []
    with Worker(database, broker.url).ready() as worker:
        for number in range(rounds):
            wait_owned(database, worker.pid)
            broker.kill()
            worker.do(f"batch {WAITING}")
            time.sleep(0.1 * number)  # at different moments of the owner's reconnect period
            before = len(worker.do("acks"))
            broker.start()
            back = time.monotonic()
            acks = _acks(worker, before + WAITING)
            times.append((acks[before] - back - RECONNECT_PERIOD) * 1000)
            print(f"takeover: return {number + 1} of {rounds}", file=sys.stderr)
    return times


def _acks(worker: Worker, count: int) -> list[float]:
    """Wait for `count` acknowledgements and return the time of each."""
    acks = eventually(
        lambda: acks if len(acks := worker.do("acks")) >= count else None,
        60,
        interval=0.05,
        message=f"{count} acknowledgements",
    )
    assert acks
    return acks
