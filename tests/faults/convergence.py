"""The convergence scenario: a busy ship, a link that is cut at random, and followers that each missed something.

python -m tests.faults.convergence --seed 7 [--orders 10000] [--updates 1000] [--deletes 500]

| follower | what happens to it |
|---|---|
| robbed | is away; its broker, which never saves, is killed with all that it has acknowledged and queued |
| restored | is put back to a copy from when it had seen a part of the rows |
| away | is away for longer than the ship's log goes back |
| late | joins at the very end |
| javascript | joins late, and is another program: tests/interop |

All the while the crew writes, the ship's link is cut at random, and the ship's owner is killed now and then.
Each follower must say that it is equal at a number of the ship's log, while writes go on; and at the end,
when the crew rests, at the last number, with the same rows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sqlalchemy import create_engine, text

from app import create_app
from blueprints.equipment.models import Equipment
from blueprints.work_orders.models import WorkOrder
from extensions import db, sync
from tests.faults.databases import free_directory
from tests.faults.link import Link, Mode
from tests.interop.javascript import JavaScriptFollower
from tests.support.follower import FollowerProcess
from tests.support.gunicorn_app import GunicornApp, flask
from tests.support.lifecycle import Started
from tests.support.mosquitto import Mosquitto
from tests.support.postgres import PostgresServer
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually, free_port

#: Seconds for the followers to become equal.
PATIENCE = 600.0
#: Changes that the broker has acknowledged when it is killed, at least.
WORTH_LOSING = 60
_PREFIX = "vessel/sync"
_SECRET = "for-tests-only-and-long-enough"
_WEEK = 8 * 86_400_000
_TABLES = ("equipment", "crew", "work_orders", "alerts", "maintenance_schedules")


@dataclass
class Figures:
    """What a run has shown."""

    seed: int
    directory: Path
    counts: Counter[str] = field(default_factory=Counter)
    #: Of each follower: the number at which it was equal while writes went on, and seconds it took.
    equal: dict[str, tuple[int, float]] = field(default_factory=dict)
    #: The last number, and that at which each follower is equal there.
    last_seq: int = 0
    finally_equal: dict[str, int] = field(default_factory=dict)
    #: Verdicts of inequality on the way: each was repaired by the follower itself.
    differed: Counter[str] = field(default_factory=Counter)
    #: Mode of a catch-up: how many, and their items.
    catchups: dict[str, tuple[int, int]] = field(default_factory=dict)
    seconds: float = 0.0

    def table(self) -> str:
        """The figures, for a person."""
        lines = [f"seed {self.seed}, {self.seconds:.0f} s"]
        lines += [f"{name:<28} {count:>7}" for name, count in self.counts.items()]
        for mode, (count, items) in sorted(self.catchups.items()):
            lines.append(f"{f'catch-ups ({mode})':<28} {count:>7}  {items} items")
        lines.append("")
        lines.append("follower     equal while writing    after      differed   equal at the end")
        for name, (seq, seconds) in self.equal.items():
            end = self.finally_equal.get(name)
            lines.append(
                f"{name:<12} seq {seq:<14} {seconds:>8.1f} s {self.differed[name]:>9}x"
                f"   seq {end} of {self.last_seq}"
            )
        return "\n".join(lines)


class Crew(threading.Thread):
    """Writes over HTTP until it is stopped; or a list of tasks, and then on."""

    def __init__(self, app: GunicornApp, seed: str, equipment: list[str]) -> None:
        super().__init__(name=f"crew-{seed}", daemon=True)
        self._app = app
        self._random = random.Random(seed)
        self._equipment = equipment
        self._mine: list[str] = []
        self._tasks: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.done: Counter[str] = Counter()

    def give(self, tasks: Sequence[tuple[str, str]]) -> None:
        """Have it update or delete these work orders: pairs of `PATCH` or `DELETE` and an id."""
        with self._lock:
            self._tasks += tasks

    @property
    def left(self) -> int:
        """Tasks to be done."""
        with self._lock:
            return len(self._tasks)

    def stop(self) -> None:
        """End it."""
        self._stopping.set()
        self.join(120)
        assert not self.is_alive(), f"{self.name} hangs"

    def run(self) -> None:
        """Write: tasks as fast as it goes, then a little of everything."""
        while not self._stopping.is_set():
            with self._lock:
                task = self._tasks[-1] if self._tasks else None
            if task is None:
                self._own()
                self._stopping.wait(self._random.uniform(0, 0.2))
            elif self._request(task[0], f"/api/work-orders/{task[1]}") is not None:
                with self._lock:
                    self._tasks.pop()

    def _own(self) -> None:
        chance = self._random.random()
        number = sum(self.done.values())
        if chance < 0.3 or not self._mine:
            body = {"equipmentId": self._random.choice(self._equipment), "reason": f"é {number}"}
            if made := self._request("POST", "/api/work-orders", body):
                self._mine.append(made["id"])
        elif chance < 0.5:
            self._request("POST", "/api/crew", {"name": f"Søren {number}", "rank": "Oiler"})
        elif chance < 0.6:
            alert = {"sensorType": "temperature", "alertType": "critical", "message": "hot"}
            alert |= {"equipmentId": self._random.choice(self._equipment)}
            self._request("POST", "/api/alerts", {**alert, "value": 91.5, "threshold": 90})
        elif chance < 0.85:
            row_id = self._random.choice(self._mine)
            self._request("PATCH", f"/api/work-orders/{row_id}", {"estimatedHours": number / 7})
        else:
            row_id = self._mine.pop(self._random.randrange(len(self._mine)))
            self._request("DELETE", f"/api/work-orders/{row_id}")

    def _request(self, method: str, path: str, body: Any = None) -> dict[str, Any] | None:
        """One request; what it answers, None where it was not answered at all."""
        if method == "PATCH" and body is None:
            body = {
                "priority": self._random.randint(1, 5),
                "description": self._random.random().hex(),
            }
        try:
            answer = self._app.request(method, path, body, timeout=20)
        except OSError:
            return None  # its worker was killed
        # 404: the request before was carried out and its answer lost
        assert answer.status in {200, 201, 204, 404, 503}, f"{answer.status} {answer.text[:300]}"
        if answer.status == 503:
            return None
        self.done[method] += 1
        return answer.json if answer.body and answer.status < 300 else {}


class Trouble(threading.Thread):
    """Cuts the ship's link at random."""

    def __init__(self, link: Link, seed: int) -> None:
        super().__init__(name="trouble", daemon=True)
        self._link = link
        self._random = random.Random(f"{seed}-trouble")
        self._stopping = threading.Event()
        self.cuts = 0

    def stop(self) -> None:
        """End it, and heal the link."""
        self._stopping.set()
        self.join(30)
        self._link.set_mode(Mode.OPEN)

    def run(self) -> None:
        """Cut, wait, mend, wait."""
        modes = (Mode.DOWN, Mode.CUT_IN, Mode.CUT_OUT)
        while not self._stopping.wait(self._random.uniform(2, 8)):
            self._link.set_mode(self._random.choice(modes))
            self.cuts += 1
            self._stopping.wait(self._random.uniform(0.1, 1.5))
            self._link.set_mode(Mode.OPEN)


class Shore:
    """The followers, each with a database of its own, and what they say of themselves."""

    def __init__(
        self, directory: Path, migrated: Path, broker: Mosquitto, stack: ExitStack
    ) -> None:
        self._directory = directory
        self._migrated = migrated
        self._broker = broker
        self._stack = stack
        self._running: dict[str, FollowerProcess] = {}

    def path(self, name: str) -> Path:
        """A follower's database."""
        return self._directory / f"{name}.sqlite"

    def start(self, name: str) -> None:
        """Start a follower, for the first time or again."""
        if not self.path(name).exists():
            shutil.copy(self._migrated, self.path(name))
        settings = {
            "DATABASE_URL": f"sqlite:///{self.path(name)}",
            "MQTT_BROKER_URL": self._broker.url,
            "MQTT_RECONNECT_PERIOD": "0.5",
        }
        process = FollowerProcess(self._directory / f"{name}.log", settings, name=name)
        self._running[name] = self._stack.enter_context(process)

    def stop(self, name: str) -> None:
        """End a follower in good order."""
        code = self._running.pop(name).stop()
        assert code == 0, f"{name} ended with {code}"

    def kill(self, name: str) -> None:
        """SIGKILL a follower."""
        self._running.pop(name).kill()

    def check_alive(self) -> None:
        """Fail when one has ended by itself."""
        for name, process in self._running.items():
            code = process.child.returncode()
            assert code is None, f"{name} has ended with {code}; see {self._directory}"

    def count(self, name: str) -> int:
        """Work orders that it has."""
        with closing(sqlite3.connect(self.path(name), timeout=20)) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM work_orders").fetchone()[0])

    def backup(self, name: str, to: Path) -> None:
        """Copy its database while it runs."""
        with (
            closing(sqlite3.connect(self.path(name), timeout=20)) as source,
            closing(sqlite3.connect(to)) as target,
        ):
            source.backup(target)

    def restore(self, name: str, copy: Path) -> None:
        """Put an old copy in the place of its database, while it is down."""
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path(name)}{suffix}").unlink(missing_ok=True)
        copy.replace(self.path(name))


class Witness(Started):
    """Hears the watermarks, and asks the ship for digests."""

    def __init__(self, broker: Mosquitto) -> None:
        self._broker = broker
        self._subscriber = Subscriber(broker.port, f"{_PREFIX}/watermarks/+", qos=1)
        self._asked = 0

    def start(self) -> Self:
        self._subscriber.start()
        return self

    def close(self) -> None:
        self._subscriber.kill()

    def revive(self) -> None:
        """Subscribe again, after the broker's restart."""
        self._subscriber.kill()
        self._subscriber.start()

    def ask(self) -> None:
        """Ask for a digest."""
        self._asked += 1
        request = {"requestId": f"witness-{self._asked}", "entity": "all", "mode": "digest"}
        self._broker.publish(f"{_PREFIX}/catchup_requests", json.dumps(request), "-q", "1")

    def verdicts(self) -> Iterator[tuple[str, dict[str, Any], float]]:
        """Each follower's name, verdict, and when it came."""
        for message in self._subscriber.messages:
            name = message.topic.rpartition("/")[2]
            audit = message.json.get("audit")
            if audit:
                yield name, audit, message.at

    def wait_equal(
        self, names: Sequence[str], seq: int, shore: Shore, figures: Figures
    ) -> dict[str, tuple[int, float]]:
        """The number from `seq` on at which each of them says that it is equal, and when it said so."""
        deadline = time.monotonic() + PATIENCE
        found: dict[str, tuple[int, float]] = {}
        asked = 0.0
        while set(found) != set(names):
            assert time.monotonic() < deadline, (
                f"not equal from {seq} on: {set(names) - set(found)}; the last verdicts were"
                f" { {name: audit for name, audit, _ in self.verdicts()} }; see {figures.directory}"
            )
            if time.monotonic() - asked > 4:
                self.ask()
                asked = time.monotonic()
            time.sleep(0.25)
            shore.check_alive()
            for name, audit, at in self.verdicts():
                if audit["equal"] and audit["seq"] >= seq:
                    found.setdefault(name, (audit["seq"], at))
        return found

    def differed(self) -> Counter[str]:
        """How often each has said that it is not equal."""
        seen = {(name, audit["seq"]) for name, audit, _ in self.verdicts() if not audit["equal"]}
        return Counter(name for name, _ in seen)


class Ship:
    """The vessel's database, behind the app's back."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = create_engine(url)

    def close(self) -> None:
        """Close its connections."""
        self._engine.dispose()

    def one(self, statement: str) -> int:
        """A number."""
        with self._engine.connect() as connection:
            return int(connection.execute(text(statement)).scalar() or 0)

    @property
    def head(self) -> int:
        """The last number that was given."""
        return self.one("SELECT head_seq FROM arus_session")

    def undelivered(self) -> int:
        """Changes that are not delivered."""
        waiting = "SELECT COUNT(*) FROM arus_change WHERE seq IS NULL AND outcome IS NULL"
        return self.one("SELECT SUM(depth) FROM arus_lane") + self.one(waiting)

    def order_ids(self) -> list[str]:
        """The ids of all work orders, in an order that a seed can repeat."""
        with self._engine.connect() as connection:
            found = connection.execute(text("SELECT id FROM work_orders ORDER BY wo_number"))
            return [str(row_id) for (row_id,) in found]

    def pass_a_week(self) -> None:
        """Let all changes so far have been made a week ago."""
        with self._engine.begin() as connection:
            connection.execute(
                text("UPDATE arus_change SET committed_at = committed_at - :week"), {"week": _WEEK}
            )

    def has_forgotten(self) -> bool:
        """Whether the log has let go of what was delivered more than a week ago."""
        before = int(time.time() * 1000) - _WEEK + 3_600_000
        old = f"SELECT COUNT(*) FROM arus_change WHERE committed_at < {before} AND outcome IS NULL"
        return self.one(old) == 0

    def catchups(self) -> dict[str, tuple[int, int]]:
        """Mode of a catch-up: how many, and their items."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                text("SELECT mode, COUNT(*), SUM(published) FROM arus_catchup GROUP BY mode")
            )
            return {str(mode): (int(count), int(items or 0)) for mode, count, items in rows}


def create_orders(url: str, first: int, count: int) -> list[str]:
    """Create work orders as an import on board would, 250 in a transaction; the ids of their equipment."""
    app = create_app({"SECRET_KEY": _SECRET, "DATABASE_URL": url, "LOCAL_MODE": "true"})
    with app.app_context():
        equipment = list(db.session.scalars(db.select(Equipment.id)))
        if not equipment:
            made = [Equipment(name=f"Pump {n}", type="pump") for n in range(20)]
            db.session.add_all(made)
            db.session.commit()
            equipment = [one.id for one in made]
        for start in range(first, first + count, 250):
            numbers = range(start, min(start + 250, first + count))
            orders = [
                WorkOrder(
                    wo_number=f"SIM-{number:06d}",
                    equipment_id=equipment[number % len(equipment)],
                    reason=f"Ölwechsel № {number}",
                    estimated_hours=number / 3,
                )
                for number in numbers
            ]
            db.session.add_all(orders)
            db.session.commit()
            sync.publish_change("create", orders[-1])
        db.session.remove()
        db.engine.dispose()
    sync.stop(app)  # it never owned anything, but its notifier is open
    return equipment


@contextmanager
def _database(kind: str, directory: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{directory / 'ship.sqlite'}"
        return
    with PostgresServer() as server:
        yield server.url(server.create_database())


def run(
    seed: int,
    *,
    orders: int = 10_000,
    updates: int = 1_000,
    deletes: int = 500,
    database: str = "sqlite",
    note: Any = lambda _: None,
) -> Figures:
    """Play the scenario; an AssertionError where a follower does not become equal.

    :param note: told what is going on.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"arus-convergence-{seed}-"))
    figures = Figures(seed, directory)
    chance = random.Random(f"{seed}-scenario")
    began = time.monotonic()
    with ExitStack() as stack:
        url = stack.enter_context(_database(database, directory))
        # it acknowledges, and saves only when it is stopped in good order
        unsafe = ("autosave_interval 1800", "autosave_on_changes false")
        broker = stack.enter_context(Mosquitto(directory / "broker", options=unsafe))
        link = Link(free_port(), broker.port, seed)
        link.start()
        stack.callback(link.stop)
        settings = {"DATABASE_URL": url, "LOCAL_MODE": "true", "SECRET_KEY": _SECRET}
        flask("db", "upgrade", settings=settings, timeout=180)
        migrated = directory / "migrated.sqlite"
        flask(
            "db", "upgrade",
            settings={"DATABASE_URL": f"sqlite:///{migrated}", "SECRET_KEY": _SECRET},
            timeout=180,
        )  # fmt: skip
        ship = Ship(url)
        stack.callback(ship.close)
        app = GunicornApp(
            directory,
            {
                **settings,
                "VESSEL_ID": "ship-1",
                "MQTT_BROKER_URL": f"mqtt://127.0.0.1:{link.port}",
                "MQTT_MAX_QUEUE_SIZE": "100000",
                "MQTT_KEEPALIVE": "4",
                "MQTT_CONNECT_TIMEOUT": "3",
                "MQTT_RECONNECT_PERIOD": "0.3",
            },
            workers=2,
        )
        stack.callback(app.kill_all)
        app.start()
        app.wait_connected(60)
        shore = Shore(directory, migrated, broker, stack)
        witness = stack.enter_context(Witness(broker))

        note(f"{orders} work orders; three followers see them come")
        for name in ("robbed", "restored", "away"):
            shore.start(name)
        third = orders // 3
        equipment = create_orders(url, 0, third)
        eventually(lambda: shore.count("restored") >= third // 2, PATIENCE, interval=0.2)
        copy = directory / "copy.sqlite"
        shore.backup("restored", copy)
        create_orders(url, third, third)
        eventually(lambda: shore.count("away") >= third, PATIENCE, interval=0.2)
        shore.kill("away")
        left_at = ship.head
        create_orders(url, 2 * third, orders - 2 * third)

        note(f"{updates} updates and {deletes} deletes, the link is cut at random")
        chosen = chance.sample(ship.order_ids(), updates + deletes)
        tasks = [("PATCH", one) for one in chosen[:updates]]
        tasks += [("DELETE", one) for one in chosen[updates:]]
        chance.shuffle(tasks)
        crews = [Crew(app, f"{seed}-{number}", equipment) for number in range(3)]
        trouble = Trouble(link, seed)
        for crew in crews:
            crew.start()
        trouble.start()
        first, second = tasks[: len(tasks) // 2], tasks[len(tasks) // 2 :]
        for number, crew in enumerate(crews):
            crew.give(first[number::3])
        eventually(lambda: not any(crew.left for crew in crews), PATIENCE, interval=0.2)

        note(
            "the broker is killed with all that it has acknowledged, one follower's queue included"
        )
        eventually(lambda: shore.count("robbed") >= third, PATIENCE, interval=0.2)
        shore.stop("robbed")
        mark = ship.head
        for number, crew in enumerate(crews):
            crew.give(second[number::3])
        eventually(lambda: not any(crew.left for crew in crews), PATIENCE, interval=0.2)
        # the crews write on, and what is numbered soon is acknowledged
        eventually(lambda: ship.head - mark > WORTH_LOSING, PATIENCE, interval=0.2)
        figures.counts["changes lost by the broker"] = ship.head - mark
        broker.kill()
        broker.start()
        witness.revive()
        robbed_at = time.monotonic()
        shore.start("robbed")
        shore.stop("restored")
        shore.restore("restored", copy)
        restored_at = time.monotonic()
        shore.start("restored")
        seq = ship.head
        found = witness.wait_equal(["robbed", "restored"], seq, shore, figures)
        figures.equal["robbed"] = (found["robbed"][0], found["robbed"][1] - robbed_at)
        figures.equal["restored"] = (found["restored"][0], found["restored"][1] - restored_at)

        note("a week passes; the owner is killed; two more join")
        ship.pass_a_week()
        # who takes over looks after the log at once
        with suppress(ProcessLookupError):
            os.kill(app.wait_connected(60), signal.SIGKILL)
        figures.counts["SIGKILLs of the owner"] += 1
        eventually(ship.has_forgotten, PATIENCE, interval=0.5, message="the log forgets")
        assert ship.one("SELECT pruned_seq FROM arus_session") > left_at
        joined_at = time.monotonic()
        shore.start("away")
        shore.start("late")
        javascript = JavaScriptFollower(
            directory, broker.port, "ship-1", "--name", "javascript", "--audit", "5"
        )
        stack.enter_context(javascript)
        with suppress(ProcessLookupError):
            os.kill(app.wait_connected(60), signal.SIGKILL)
        figures.counts["SIGKILLs of the owner"] += 1
        seq = ship.head
        everyone = ["robbed", "restored", "away", "late", "javascript"]
        found = witness.wait_equal(everyone, seq, shore, figures)
        for name in ("away", "late", "javascript"):
            figures.equal[name] = (found[name][0], found[name][1] - joined_at)

        note("the crew rests")
        trouble.stop()
        for crew in crews:
            crew.stop()
        eventually(lambda: ship.undelivered() == 0, PATIENCE, interval=0.2)
        figures.last_seq = ship.head
        found = witness.wait_equal(everyone, figures.last_seq, shore, figures)
        figures.finally_equal = {name: seq for name, (seq, _) in found.items()}
        _compare(ship, shore, javascript, everyone)
        done: Counter[str] = sum((crew.done for crew in crews), Counter())
        figures.counts["work orders imported"] = orders
        figures.counts["updates asked for"] = updates
        figures.counts["deletes asked for"] = deletes
        figures.counts["writes over HTTP"] = done.total()
        figures.counts["changes"] = figures.last_seq
        figures.counts["work orders at the end"] = ship.one("SELECT COUNT(*) FROM work_orders")
        figures.counts["cuts of the link"] = trouble.cuts
        figures.differed = witness.differed()
        figures.catchups = ship.catchups()
    figures.seconds = time.monotonic() - began
    return figures


def _compare(
    ship: Ship, shore: Shore, javascript: JavaScriptFollower, everyone: Sequence[str]
) -> None:
    """The databases themselves, row by row: nobody's word is taken for it."""
    wanted = _rows(ship.url)
    for name in everyone:
        if name != "javascript":
            found = _rows(f"sqlite:///{shore.path(name)}")
            for table in _TABLES:
                assert found[table] == wanted[table], f"{name}: {table} is not the ship's"
    dump = javascript.dump()
    assert not dump["refused"]
    for table in _TABLES:
        ids = {row["id"]: row["version"] for row in dump["rows"][table].values()}
        assert ids == {row[0]: row[1] for row in wanted[table]}, f"javascript: {table}"


def _rows(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each table, without the keys for searching, which each side makes by itself."""
    app = create_app({"SECRET_KEY": _SECRET, "DATABASE_URL": url, "LOCAL_MODE": "false"})
    found = {}
    with app.app_context():
        for name in _TABLES:
            table = db.metadata.tables[name]
            columns = [table.c.id, table.c.version]
            columns += [
                c
                for c in table.columns
                if c.name not in {"id", "version"} and not c.name.endswith("_key")
            ]
            rows = db.session.execute(db.select(*columns).order_by(table.c.id))
            found[name] = sorted(tuple(row) for row in rows)
        db.session.remove()
        db.engine.dispose()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code says whether all became equal."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.convergence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int)
    parser.add_argument("--orders", type=int, default=10_000)
    parser.add_argument("--updates", type=int, default=1_000)
    parser.add_argument("--deletes", type=int, default=500)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--keep", action="store_true", help="the databases and logs")
    given = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1, 1_000_000) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is taken down
    began = time.monotonic()
    try:
        figures = run(
            seed,
            orders=given.orders,
            updates=given.updates,
            deletes=given.deletes,
            database=given.database,
            note=lambda what: print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True),
        )
    except AssertionError as error:
        print(f"not equal: {error}", flush=True)
        return 1
    print(figures.table(), flush=True)
    if not given.keep:
        free_directory(figures.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
