"""What goes wrong, when, and how it ends: a random schedule from a seed."""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.databases import Postgres
from tests.faults.link import Mode
from tests.faults.stage import Stage
from tests.support.waiting import eventually

#: Seconds from one fault to the next.
_PAUSE = (0.1, 1.8)
#: Every so many faults wait, for at most so many seconds, until something has arrived since the last
#: one: in an outage without end there is nothing in flight that could be lost.
_CALM, _PATIENCE = 0.6, 6.0


@dataclass(slots=True)
class Fault:
    """One thing that went wrong."""

    kind: str
    began: float
    ended: float
    detail: str = ""


class Faults:
    """Breaks a stage, one fault after (and during) another, and heals it.

    The main thread's business: processes that it starts end with the thread that started them.
    """

    def __init__(self, stage: Stage, seed: int) -> None:
        self._stage = stage
        self._random = random.Random(f"{seed}-faults")
        self.done: list[Fault] = []
        #: kinds that can't be had here, and why
        self.missing: dict[str, str] = {}
        self._endings: list[tuple[float, int, Callable[[], None], Fault]] = []
        self._stopped: set[int] = set()
        self._database_busy = False
        self._kinds: dict[str, Callable[[Fault], bool]] = {
            "owner SIGKILL": self._kill_owner,
            "worker SIGKILL": self._kill_worker,
            "owner SIGSTOP 1-6 s": self._stop_owner,
            "worker SIGSTOP 1-6 s": self._stop_worker,
            "master HUP": self._hup,
            "master SIGKILL, restart": self._kill_master,
            "broker SIGTERM, restart": self._stop_broker,
            "broker SIGKILL, restart": self._kill_broker,
            "link cut inwards": lambda fault: self._cut(fault, Mode.CUT_IN),
            "link cut outwards": lambda fault: self._cut(fault, Mode.CUT_OUT),
            "link cut": lambda fault: self._cut(fault, Mode.DOWN),
            "link half open 3-8 s": self._half_open,
            "satellite 5-10 s": self._satellite,
            "disk full": self._fill_disk,
            "database locked 10 s": self._lock_database,
            "clock back an hour": self._step_clock,
        }
        if isinstance(stage.database, Postgres):
            self._kinds["owner fenced off"] = self._fence_owner
            self._kinds["database server crash"] = self._crash_database
        for kind, why in (
            ("disk full", stage.disk.missing),
            ("clock back an hour", stage.clock.missing),
            ("broker SIGKILL, restart", stage.broker_keeps_nothing),
        ):
            if why:
                self.missing[kind] = why
                del self._kinds[kind]
        self._deck: list[str] = []

    @property
    def broker_kills(self) -> list[float]:
        """When the broker was killed."""
        return [fault.began for fault in self.done if fault.kind == "broker SIGKILL, restart"]

    @property
    def broker_stops(self) -> list[float]:
        """When the broker ended, killed or in good order."""
        return [fault.began for fault in self.done if fault.kind.startswith("broker ")]

    def run(self, count: int) -> None:
        """Cause `count` faults; each of them may still last."""
        for _ in range(count):
            self._until(time.monotonic() + self._random.uniform(*_PAUSE))
            if self._random.random() < _CALM:
                self._wait_for_deliveries()
            while not self._cause_one():
                self._until(time.monotonic() + 0.2)

    def heal(self) -> None:
        """End what still lasts."""
        while self._endings:
            self._end(heapq.heappop(self._endings))
        self._watch()

    # -- the schedule -----------------------------------------------------------------------------

    def _until(self, moment: float) -> None:
        while (now := time.monotonic()) < moment:
            while self._endings and self._endings[0][0] <= now:
                self._end(heapq.heappop(self._endings))
            self._watch()
            soonest = min([moment, now + 0.1, *(ending[0] for ending in self._endings[:1])])
            time.sleep(max(0.0, soonest - time.monotonic()))

    def _wait_for_deliveries(self) -> None:
        before = self._stage.shore.count
        give_up = time.monotonic() + _PATIENCE
        while self._stage.shore.count < before + 5 and time.monotonic() < give_up:
            self._until(time.monotonic() + 0.05)

    def _end(self, ending: tuple[float, int, Callable[[], None], Fault]) -> None:
        _, _, end, fault = ending
        end()
        fault.ended = time.monotonic()

    def _watch(self) -> None:
        if self._stage.broker.running:
            for subscriber in (self._stage.shore, self._stage.witness):
                subscriber.revive()

    def _cause_one(self) -> bool:
        if not self._deck:
            self._deck = list(self._kinds)
            self._random.shuffle(self._deck)
        for kind in list(self._deck):
            fault = Fault(kind, time.monotonic(), time.monotonic())
            if self._kinds[kind](fault):
                self._deck.remove(kind)
                self.done.append(fault)
                return True
        return False

    def _after(self, seconds: float, end: Callable[[], None], fault: Fault) -> None:
        fault.detail = f"{fault.detail} {seconds:.1f} s".strip()
        fault.ended = time.monotonic() + seconds
        heapq.heappush(self._endings, (fault.ended, id(fault), end, fault))

    # -- processes --------------------------------------------------------------------------------

    def _workers(self) -> list[int]:
        try:
            return self._stage.app.worker_pids()
        except OSError:
            return []

    def _owner(self) -> int | None:
        owner = self._stage.database.owner_pid()
        return owner if owner in self._workers() else None

    def _kill_owner(self, fault: Fault) -> bool:
        return self._kill(fault, self._owner())

    def _kill_worker(self, fault: Fault) -> bool:
        workers = self._workers()
        return bool(workers) and self._kill(fault, self._random.choice(workers))

    def _kill(self, fault: Fault, pid: int | None) -> bool:
        if pid is None:
            return False
        fault.detail = str(pid)
        with contextlib.suppress(ProcessLookupError):  # it ended this very moment
            os.kill(pid, signal.SIGKILL)
            return True
        return False

    def _stop_owner(self, fault: Fault) -> bool:
        return self._stop(fault, self._owner())

    def _stop_worker(self, fault: Fault) -> bool:
        owner = self._owner()
        others = [pid for pid in self._workers() if pid != owner]
        return bool(others) and self._stop(fault, self._random.choice(others))

    def _stop(self, fault: Fault, pid: int | None, then: Callable[[], bool] | None = None) -> bool:
        # with all of them stopped it would be an outage that nobody can tell from a long one
        if pid is None or pid in self._stopped or len(self._stopped) > 1:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._stopped.add(pid)
            fault.detail = str(pid)
            self._after(self._random.uniform(1, 6), lambda: self._continue(pid), fault)
            if then:
                then()
            return True
        return False

    def _continue(self, pid: int) -> None:
        self._stopped.discard(pid)
        with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
            os.kill(pid, signal.SIGCONT)

    def _fence_owner(self, fault: Fault) -> bool:
        database = self._stage.database
        assert isinstance(database, Postgres)
        return not self._database_busy and self._stop(
            fault, self._owner(), database.end_owners_connection
        )

    def _hup(self, _fault: Fault) -> bool:
        if not self._workers():
            return False
        self._stage.app.hup()
        return True

    def _kill_master(self, fault: Fault) -> bool:
        workers = self._workers()
        if len(workers) < 2:
            return False
        app = self._stage.app
        os.kill(app.pid, signal.SIGKILL)
        # its workers go on as orphans, owner included, until they are swept up
        orphaned = self._random.uniform(0, 0.8)
        fault.detail = f"orphans for {orphaned:.1f} s"
        time.sleep(orphaned)
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(map(_runs, workers)), 5, message="the orphans are gone")
        app.kill_all()
        app.start(wait=False)
        return True

    # -- the broker -------------------------------------------------------------------------------

    def _stop_broker(self, fault: Fault) -> bool:
        if not self._stage.broker.running:
            return False
        self._stage.broker.stop()
        self._after(self._random.uniform(0, 3), self._start_broker, fault)
        return True

    def _kill_broker(self, fault: Fault) -> bool:
        if not self._stage.broker.running:
            return False
        self._stage.broker.kill()
        self._after(self._random.uniform(0, 3), self._start_broker, fault)
        return True

    def _start_broker(self) -> None:
        self._stage.broker.start()

    # -- the link ---------------------------------------------------------------------------------

    def _cut(self, fault: Fault, mode: Mode) -> bool:
        return self._disturb(fault, mode, self._random.uniform(0.2, 3))

    def _half_open(self, fault: Fault) -> bool:
        return self._disturb(fault, Mode.HALF_OPEN, self._random.uniform(3, 8))

    def _disturb(self, fault: Fault, mode: Mode, seconds: float) -> bool:
        link = self._stage.link
        if link.mode is not Mode.OPEN or not self._stage.broker.running:
            return False
        link.set_mode(mode)
        self._after(seconds, lambda: link.set_mode(Mode.OPEN), fault)
        return True

    def _satellite(self, fault: Fault) -> bool:
        link = self._stage.link
        if link.satellite:
            return False
        link.set_satellite(True)
        self._after(self._random.uniform(5, 10), lambda: link.set_satellite(False), fault)
        return True

    # -- the database -----------------------------------------------------------------------------

    def _fill_disk(self, fault: Fault) -> bool:
        if self._database_busy:
            return False
        self._database_busy = True
        self._stage.disk.fill()
        self._after(self._random.uniform(1, 5), self._free_disk, fault)
        return True

    def _free_disk(self) -> None:
        self._stage.disk.free()
        self._database_busy = False

    def _lock_database(self, fault: Fault) -> bool:
        if self._database_busy:
            return False
        release = self._stage.database.lock()
        if release is None:
            return False
        self._database_busy = True

        def end() -> None:
            release()
            self._database_busy = False

        self._after(10, end, fault)
        return True

    def _crash_database(self, _fault: Fault) -> bool:
        database = self._stage.database
        assert isinstance(database, Postgres)
        if self._database_busy:
            return False
        database.crash()
        return True

    # -- the clock --------------------------------------------------------------------------------

    def _step_clock(self, fault: Fault) -> bool:
        if any(ending[3].kind == fault.kind for ending in self._endings):
            return False
        self._stage.clock.step(-3600)
        self._after(self._random.uniform(2, 8), lambda: self._stage.clock.step(0), fault)
        return True


def _runs(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
