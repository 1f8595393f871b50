"""A process that hosts vessels, controlled over its standard input: a line of JSON each for a command and its answer.

`python -m tests.fleet.host`. A command is `[method, arguments]` of `Vessels`.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import orjson

from tests.support.gunicorn_app import ROOT, clean_environment
from tests.support.lifecycle import Started
from tools.processes import die_with

#: Bytes of a page of memory.
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Host(Started):
    """The parent's handle of such a process."""

    def __init__(self, log_path: Path) -> None:
        parent = os.getpid()
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fleet.host"],
                cwd=ROOT,
                env=clean_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                preexec_fn=lambda: die_with(parent),  # noqa: PLW1509  # see there
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def ask(self, method: str, **arguments: Any) -> None:
        """Send a command; `answer` waits for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps([method, arguments]) + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The answer to the oldest unanswered command."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "a host of vessels has ended"
        answer = orjson.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def do(self, method: str, **arguments: Any) -> Any:
        """Send a command and return its answer."""
        self.ask(method, **arguments)
        return self.answer()

    def kill(self) -> None:
        """SIGKILL it, with all its vessels."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def close(self) -> None:
        if self.alive:
            self.kill()


class Vessels:
    """The vessels of this process, and the commands about them."""

    def __init__(self) -> None:
        self._vessels: dict[str, Any] = {}
        self._writer: _Writer | None = None

    def add(self, vessel_id: str, database: str, settings: dict[str, str]) -> None:
        from tests.fleet.vessels import Vessel

        self._vessels[vessel_id] = Vessel(vessel_id, database, settings)

    def remove(self, vessel_ids: list[str]) -> None:
        """End vessels, so that their databases can be replaced; nobody may write."""
        for vessel in self._chosen(vessel_ids):
            vessel.close()
            del self._vessels[vessel.vessel_id]

    def deface(self, count: int, vessel_ids: list[str]) -> None:
        for vessel in self._chosen(vessel_ids):
            vessel.deface(count)

    def fill(self, rows: int) -> None:
        for vessel in self._vessels.values():
            vessel.fill(rows)

    def start(self, vessel_ids: list[str] | None = None) -> None:
        for vessel in self._chosen(vessel_ids):
            vessel.start()

    def stop(self, vessel_ids: list[str] | None = None) -> None:
        for vessel in self._chosen(vessel_ids):
            vessel.stop()

    def write(self, count: int, vessel_ids: list[str] | None = None) -> None:
        for _ in range(count):
            for vessel in self._chosen(vessel_ids):
                vessel.write()

    def create(self, count: int, transaction: int) -> int:
        return sum(len(vessel.create(count, transaction)) for vessel in self._vessels.values())

    def pour(self, count: int, transaction: int, vessel_ids: list[str]) -> None:
        for vessel in self._chosen(vessel_ids):
            vessel.create(count, transaction)

    def create_one(self, vessel_ids: list[str]) -> list[Any]:
        return [commit for vessel in self._chosen(vessel_ids) for commit in vessel.create(1)]

    def begin(self, rate: float, *, timed: bool = False) -> None:
        """Write from now on, in a thread, one vessel after the other: `rate` changes a second of all together."""
        assert self._writer is None, "it writes already"
        self._writer = _Writer(list(self._vessels.values()), rate, timed=timed)
        self._writer.start()

    def end(self) -> list[Any]:
        """Write no more; the commits, of which a process that was killed meanwhile has none."""
        writer, self._writer = self._writer, None
        return [] if writer is None else writer.end()

    def tables(self) -> dict[str, Any]:
        return {vessel_id: vessel.tables() for vessel_id, vessel in self._vessels.items()}

    def states(self) -> dict[str, Any]:
        return {vessel_id: vessel.state() for vessel_id, vessel in self._vessels.items()}

    def audit(self) -> None:
        for vessel in self._vessels.values():
            vessel.audit()

    def usage(self) -> dict[str, float]:
        """Memory in bytes, and seconds of a processor so far."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {"memory": memory_of(os.getpid()), "cpu": used.ru_utime + used.ru_stime}

    def _chosen(self, vessel_ids: list[str] | None) -> list[Any]:
        if vessel_ids is None:
            return list(self._vessels.values())
        return [self._vessels[vessel_id] for vessel_id in vessel_ids]


class _Writer:
    """A thread that writes at even intervals."""

    def __init__(self, vessels: list[Any], rate: float, *, timed: bool) -> None:
        self._vessels = vessels
        self._rate = rate
        self._timed = timed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._commits: list[Any] = []
        self._error: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    def end(self) -> list[Any]:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._commits

    def _run(self) -> None:
        due = time.monotonic()
        turn = 0
        try:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                vessel = self._vessels[turn % len(self._vessels)]
                self._commits += vessel.create(1) if self._timed else vessel.write()
                turn += 1
                due += 1 / self._rate
        except Exception as error:  # noqa: BLE001  # whoever ends it is told
            self._error = error


def memory_of(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def cpu_of(pid: int) -> float:
    """Seconds of a processor that a process has used, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Do as told until the standard input ends."""
    from tests.fleet.vessels import show_log

    show_log()
    vessels = Vessels()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # nothing else may write between the answers
    for line in sys.stdin.buffer:
        method, arguments = orjson.loads(line)
        try:
            answer = {"result": getattr(vessels, method)(**arguments)}
        except Exception as error:  # noqa: BLE001  # the parent is told
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(orjson.dumps(answer) + b"\n")


if __name__ == "__main__":
    main()
