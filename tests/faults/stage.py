"""Everything that takes part in a run, all of it real: app, database, link, broker, subscribers."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.faults.databases import Postgres, SmallDisk, Sqlite
from tests.faults.link import Link
from tests.support.gunicorn_app import HEALTH, GunicornApp, flask
from tests.support.lifecycle import Started
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually, free_port

WORKERS = 3
VESSEL_ID = "ship-1"
#: -R: after a restart of the broker mosquitto_sub subscribes anew, and is sent the retained
#: messages again; these repeats are its own doing.
_NO_RETAINED = ("-R",)

_NEW_QOS2 = re.compile(r"received PUBLISH \(d0, q2, r\d, m(\d+),")
_REPEATED_QOS2 = re.compile(r"received PUBLISH \(d1, q2, r\d, m(\d+),")
_RELEASED = re.compile(r"received PUBREL \(Mid: (\d+)\)")


class DurableSubscriber(Subscriber):
    """A mosquitto_sub with a session that outlives the broker's restarts."""

    def revive(self) -> bool:
        """Start it again if it has ended; whether it had."""
        if not self._ended():
            return False
        self.kill()
        with contextlib.suppress(AssertionError):  # the broker is down again: the next call's task
            self.start()
        return True

    @property
    def count(self) -> int:
        """How many messages have arrived."""
        return len(self._received)

    @property
    def mistaken(self) -> int:
        """How often a new message came under a packet id whose handshake was not over.

        The broker has forgotten whom it gave the id; the subscriber must take the message for a
        repeat of that one, and drops it.
        """
        pending: set[str] = set()
        mistaken = 0
        for line in self.said:
            if new := _NEW_QOS2.search(line):
                mistaken += new[1] in pending
                pending.add(new[1])
            elif repeated := _REPEATED_QOS2.search(line):
                pending.add(repeated[1])
            elif over := _RELEASED.search(line):
                pending.discard(over[1])
        return mistaken

    @property
    def said(self) -> list[str]:
        """What it has said beside the messages."""
        return list(self._said)


class Clock:
    """The time that the app is told; real time elsewhere."""

    def __init__(self, directory: Path) -> None:
        self._offset = directory / "clock"
        self._library = directory / "clock.so"
        #: Why the app's time can't be changed.
        self.missing: str | None = None
        self._offset.write_bytes(bytes(8))
        compiler = shutil.which("cc")
        if compiler is None:
            self.missing = "there is no C compiler for the clock (Debian: gcc, libc6-dev)"
            return
        source = Path(__file__).with_name("clock.c")
        words = [compiler, "-shared", "-fPIC", "-O2", "-o", str(self._library), str(source), "-ldl"]
        subprocess.run(words, check=True, timeout=60)

    @property
    def settings(self) -> dict[str, str]:
        """What the app's environment needs."""
        if self.missing:
            return {}
        return {"LD_PRELOAD": str(self._library), "ARUS_FAULTS_CLOCK": str(self._offset)}

    def step(self, seconds: int) -> None:
        """Be so many seconds ahead of (or behind) the real time."""
        with self._offset.open("r+b") as file:
            file.write(seconds.to_bytes(8, sys.byteorder, signed=True))


class Stage(Started):
    """One vessel and its shore."""

    def __init__(self, database: str, seed: int, *, as_shipped: bool = False) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"arus-faults-{database}-{seed}-"))
        self.directory.chmod(0o711)  # PostgreSQL's user passes through
        self._kind = database
        self._seed = seed
        self._as_shipped = as_shipped
        #: Why a SIGKILL of the broker shows nothing of the vessel.
        self.broker_keeps_nothing = (
            "as shipped, Mosquitto saves each 30 minutes: killed it loses what it acknowledged"
            if as_shipped
            else None
        )
        self._stack = ExitStack()

    def start(self) -> Self:
        with ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def close(self) -> None:
        self._stack.close()

    def _build(self, stack: ExitStack) -> None:
        # the directory stays: whoever runs it looks into it, or removes it
        self.disk = SmallDisk(self.directory / "disk")
        stack.callback(self.disk.close)
        self.database: Sqlite | Postgres
        if self._kind == "sqlite":
            self.database = Sqlite(self.disk)
        else:
            self.database = Postgres(self.disk, stack)
        self.clock = Clock(self.directory)
        self.broker = stack.enter_context(
            Mosquitto(self.directory / "broker", as_shipped=self._as_shipped)
        )
        self.link = Link(free_port(), self.broker.port, self._seed)
        self.link.start()
        stack.callback(self.link.stop)
        #: sees everything
        self.shore = DurableSubscriber(
            self.broker.port, "vessel/sync/#", client_id="shore", args=_NO_RETAINED
        )
        #: a second opinion on what must be seen once
        self.witness = DurableSubscriber(
            self.broker.port, "vessel/sync/alerts", client_id="witness", args=_NO_RETAINED
        )
        stack.enter_context(self.shore)
        stack.enter_context(self.witness)
        settings = {
            "LOCAL_MODE": "true",
            "DATABASE_URL": self.database.url,
            "SECRET_KEY": "for-tests-only-and-long-enough",
            "VESSEL_ID": VESSEL_ID,
            "MQTT_MAX_QUEUE_SIZE": "1000000",  # each change is to arrive: none may give way
            "MQTT_PROTOCOL": "3.1.1" if self._seed % 2 else "5",
        }
        flask("db", "upgrade", settings=settings)
        self.app = GunicornApp(
            self.directory,
            {
                **settings,
                **self.clock.settings,
                "MQTT_BROKER_URL": f"mqtt://127.0.0.1:{self.link.port}",
                "MQTT_KEEPALIVE": "2",
                "MQTT_CONNECT_TIMEOUT": "3",
                "MQTT_RECONNECT_PERIOD": "0.3",
            },
            workers=WORKERS,
        )
        stack.callback(self.app.kill_all)
        self.app.start()
        self.app.wait_connected()

    def ask_each_worker(self) -> list[dict[str, Any]]:
        """The health document without its time, as each of the workers tells it."""
        pids = self.app.worker_pids()
        answers = []
        for pid in pids:
            others = [other for other in pids if other != pid]
            try:
                for other in others:
                    os.kill(other, signal.SIGSTOP)
                document = self.app.get(HEALTH).json
            finally:
                for other in others:
                    os.kill(other, signal.SIGCONT)
            document.pop("timestamp")
            answers.append(document)
        return answers

    def rows(self) -> dict[tuple[str, str], dict[str, Any]]:
        """All rows of all resources, as the API shows them."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for entity in ("work_orders", "alerts", "equipment", "crew", "maintenance_schedules"):
            path, cursor = f"/api/{entity.replace('_', '-')}?limit=200", ""
            while cursor is not None:
                page = self.app.get(f"{path}{cursor}").json
                found.update(((entity, item["id"]), item) for item in page["items"])
                cursor = f"&cursor={page['next']}" if page["next"] else None  # type: ignore[assignment]
        return found

    def wait_healed(self, timeout: float = 60) -> float:
        """Return once all workers answer and nothing is undelivered; how long it took."""
        began = time.monotonic()

        def healed() -> bool:
            health = self.app.health()
            return (
                health["mqtt"]["status"] == "connected"
                and health["mqtt"]["queuedMessages"] == 0
                and len(self.app.worker_pids()) == WORKERS
            )

        eventually(healed, timeout, interval=0.2, message="the queue is empty again")
        return time.monotonic() - began
