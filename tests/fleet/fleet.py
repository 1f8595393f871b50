"""A fleet: vessels in a few processes, a broker as its package ships it, a follower on PostgreSQL, and a tap."""

from __future__ import annotations

import math
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.fleet.host import Host
from tests.fleet.shore import Shore
from tests.fleet.tap import Tap
from tests.support.gunicorn_app import flask
from tests.support.lifecycle import Started
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import PATIENCE, eventually

PREFIX = "fleet/{vessel_id}/sync"
TOPICS = frozenset({"work_orders", "alerts", "equipment", "crew", "maintenance"})
#: It says nothing, since a log of all packets costs more than the packets; and counts each second.
BROKER = ("log_type none", "sys_interval 1")
#: Seconds after which a digest is asked for again.
ASK_AGAIN = 5.0
#: The same for a large fleet, whose audits take a while.
PROVE_AGAIN = 15.0


def migrate(url: str) -> None:
    """Make the application's tables."""
    flask("db", "upgrade", settings={"DATABASE_URL": url, "SECRET_KEY": "for-tests-only-anyhow"})


@dataclass
class Difference:
    """What is not as it should be ashore, of one look."""

    #: Vessels that are not followed up to their head, or of which something is missing.
    behind: list[str] = field(default_factory=list)
    #: Rows, by topic and id.
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    #: Vessels without an audit at their head that says equal.
    unproved: list[str] = field(default_factory=list)
    #: Vessels with one, and those of which rows are missing or other ones ashore.
    proved: set[str] = field(default_factory=set)
    wrong: set[str] = field(default_factory=set)

    @property
    def _parts(self) -> dict[str, list[str]]:
        names = ("behind", "missing", "extra", "changed", "unproved")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    def __bool__(self) -> bool:
        return bool(self._parts)

    def __str__(self) -> str:
        parts = [f"{len(all_)} {name}: {', '.join(all_[:4])}" for name, all_ in self._parts.items()]
        return "; ".join(parts) or "nothing differs"


class Fleet(Started):
    """The whole stage; vessels are stopped and the follower is away until they are told otherwise.

    :param database_url: the shore's, migrated.
    :param template: a migrated SQLite database to copy for each vessel.
    :param vessels: how many.
    :param hosts: processes that they are spread over.
    :param alone: that many of them have a process each besides, to be killed.
    :param prefix: MQTT_TOPIC_PREFIX of all.
    :param processes: of the follower; several share partitions.
    :param as_shipped: the broker keeps a thousand messages for a client, as it does by default; otherwise a million.
    """

    def __init__(
        self,
        directory: Path,
        database_url: str,
        template: Path,
        *,
        vessels: int,
        hosts: int = 2,
        alone: int = 0,
        prefix: str = PREFIX,
        processes: int = 1,
        as_shipped: bool = True,
    ) -> None:
        self.directory = directory
        self.prefix = prefix
        self._template = template
        options = BROKER if as_shipped else (*BROKER, "max_queued_messages 1000000")
        self.broker = Mosquitto(directory / "broker", as_shipped=True, options=options)
        self._settings = {
            "MQTT_BROKER_URL": self.broker.url,
            "MQTT_TOPIC_PREFIX": prefix,
            "MQTT_RECONNECT_PERIOD": "1",
        }
        self.shore = Shore(directory, database_url, self._settings, processes)
        self.tap = Tap(self.broker.port, prefix.split("/", maxsplit=1)[0], TOPICS)
        self.vessel_ids = [f"ship-{number}" for number in range(1, vessels + 1)]
        #: Rows ashore whose ids begin so belong to no vessel of the fleet, and are not looked at.
        self.ignored: str | None = None
        self._spread = alone + min(hosts, vessels - alone)
        self._alone = alone
        self.hosts: list[Host] = []
        #: The host of each vessel, by its place in `hosts`.
        self.place = {
            vessel_id: (
                number if number < alone else alone + (number - alone) % (self._spread - alone)
            )
            for number, vessel_id in enumerate(self.vessel_ids)
        }
        self._stack = ExitStack()
        self._control = threading.RLock()

    def start(self) -> Self:
        self._stack.enter_context(self.broker)
        self._stack.enter_context(self.tap)
        self._stack.enter_context(self.shore)
        self.hosts = [self._new_host(place) for place in range(self._spread)]
        for vessel_id in self.vessel_ids:
            shutil.copy(self._template, self._database(vessel_id))
        self.ask_all(self._ask_add)
        return self

    def close(self) -> None:
        self._stack.close()
        for host in self.hosts:
            host.close()

    # -- control --------------------------------------------------------------------------------------

    def prefix_of(self, vessel_id: str) -> str:
        """The root of one vessel's topics."""
        return self.prefix.replace("{vessel_id}", vessel_id)

    def do_all(self, method: str, **arguments: Any) -> list[Any]:
        """A command to all hosts at once; their answers."""
        with self._control:
            for host in self.hosts:
                host.ask(method, **arguments)
            return [host.answer() for host in self.hosts]

    def do(self, vessel_id: str, method: str, **arguments: Any) -> Any:
        """A command to one vessel."""
        with self._control:
            return self.hosts[self.place[vessel_id]].do(method, vessel_ids=[vessel_id], **arguments)

    def follow(self) -> None:
        """Have the follower follow, and return once it is connected."""
        self.shore.follow()
        eventually(lambda: self.shore.status().connected, 20, message="the follower is connected")

    def join(self) -> None:
        """Have the follower follow, and then all vessels connect at once."""
        self.follow()
        self.do_all("start")

    def begin_writing(self, rate: float, *, timed: bool = False) -> None:
        """Have all vessels write, `rate` changes a second together."""
        for place, host in enumerate(self.hosts):
            share = len(self._on(place)) / len(self.vessel_ids)
            host.ask("begin", rate=rate * share, timed=timed)
        for host in self.hosts:
            host.answer()

    def end_writing(self) -> list[Any]:
        """Write no more; all commits."""
        return [commit for commits in self.do_all("end") for commit in commits]

    def kill_host(self, vessel_id: str) -> None:
        """SIGKILL the process of a vessel."""
        self.hosts[self.place[vessel_id]].kill()

    def restart_host(self, vessel_id: str) -> None:
        """Start it again, with the vessels as they were left on the disk."""
        place = self.place[vessel_id]
        host = self.hosts[place] = self._new_host(place)
        self._ask_add(host, place)
        host.do("start")

    def add_vessel(self, vessel_id: str, rows: int) -> None:
        """Have another vessel join, in the last host's process."""
        self.vessel_ids.append(vessel_id)
        shutil.copy(self._template, self._database(vessel_id))
        self.place[vessel_id] = len(self.hosts) - 1
        self._add(vessel_id)
        self.do(vessel_id, "write", count=rows)
        self.do(vessel_id, "start")

    def clone_vessel(self, vessel_id: str, clone_id: str, defaced: int) -> None:
        """Have a vessel join whose disk is a copy of another's; it changes rows. The oracle does not expect its rows."""
        self.back_up(vessel_id, self._database(clone_id))
        self.place[clone_id] = len(self.hosts) - 1
        self._add(clone_id)
        self.do(clone_id, "start")
        self.do(clone_id, "deface", count=defaced)

    def back_up(self, vessel_id: str, file: Path) -> None:
        """Copy a vessel's database while it is in use."""
        source, copy = sqlite3.connect(self._database(vessel_id)), sqlite3.connect(file)
        with closing(source), closing(copy):
            source.backup(copy)

    def restore(self, vessel_id: str, file: Path) -> None:
        """Put an older copy of a vessel's database in the place of the present one; nobody may write."""
        self.do(vessel_id, "remove")
        database = self._database(vessel_id)
        for suffix in ("-wal", "-shm"):
            database.with_name(database.name + suffix).unlink(missing_ok=True)
        shutil.copy(file, database)
        self._add(vessel_id)
        self.do(vessel_id, "start")

    def _add(self, vessel_id: str) -> None:
        database = str(self._database(vessel_id))
        host = self.hosts[self.place[vessel_id]]
        with self._control:
            host.do("add", vessel_id=vessel_id, database=database, settings=self._settings)

    def wait_connected(self) -> None:
        """Return once all vessels are connected and have nothing undelivered."""

        def ready() -> bool:
            waiting = [
                vessel_id
                for vessel_id, state in self.states().items()
                if not state["connected"] or state["depth"]
            ]
            assert not waiting, f"{len(waiting)} vessels: {waiting[:5]}"
            return True

        eventually(ready, 30, interval=0.2, message="all vessels are connected")

    # -- the oracle -----------------------------------------------------------------------------------

    def states(self) -> dict[str, Any]:
        """The state of each vessel."""
        return self._of_the_fleet("states")

    def tables(self) -> dict[str, Any]:
        """The rows of all vessels, by vessel."""
        return self._of_the_fleet("tables")

    def _of_the_fleet(self, method: str) -> dict[str, Any]:
        found = {key: told for part in self.do_all(method) for key, told in part.items()}
        return {vessel_id: found[vessel_id] for vessel_id in self.vessel_ids}

    def compare(self, since: float, tables: dict[str, Any] | None = None) -> Difference:
        """Compare the copy with the vessels, row by row; audits before `since` do not count.

        :param tables: the vessels' rows, where nobody writes.
        """
        found = self.progress(since)
        self._compare_rows(found, tables or self.tables())
        return found

    def progress(self, since: float) -> Difference:
        """As `compare`, by what the follower says of itself alone."""
        found = Difference()
        states = self.states()
        followed = {vessel.vessel_id: vessel for vessel in self.shore.status().vessels}
        for vessel_id, state in states.items():
            vessel = followed.get(vessel_id)
            if vessel is not None and _is_proved(vessel.audit, state["seq"], since):
                found.proved.add(vessel_id)
            else:
                found.unproved.append(
                    f"{vessel_id} (last audit: {vessel.audit if vessel else None})"
                )
            if vessel is None or vessel.seq != state["seq"] or not vessel.up_to_date:
                found.behind.append(_said(vessel_id, state, vessel))
        return found

    def _compare_rows(self, found: Difference, tables: dict[str, Any]) -> None:
        ashore = self.shore.rows()
        if self.ignored is not None:
            ashore = {k: row for k, row in ashore.items() if f"/{self.ignored}" not in k}
        for vessel_id, rows in tables.items():
            missing = sorted(rows.keys() - ashore.keys())
            changed = [key for key, row in rows.items() if key in ashore and ashore[key] != row]
            found.missing += missing
            found.changed += changed
            if missing or changed:
                found.wrong.add(vessel_id)
        found.extra = sorted(ashore.keys() - {key for rows in tables.values() for key in rows})

    def wait_proved(self, since: float, timeout: float) -> None:
        """Return once an audit of each vessel at its last number, not older than `since`, says equal."""
        asked = -math.inf

        def proved() -> bool:
            nonlocal asked
            found = self.progress(since)
            if found.unproved and not found.behind and time.monotonic() - asked > PROVE_AGAIN:
                self.do_all("audit")
                asked = time.monotonic()
            assert not found, found
            return True

        eventually(proved, timeout, interval=0.25, message="all audits say equal")

    def wait_equal(self, timeout: float = 60) -> float:
        """Return once the copy is equal, row by row, and the audit of each vessel says so; nobody may write.

        :returns: the seconds that it took.
        """
        began = time.monotonic()
        since = time.time()
        deadline = began + timeout * PATIENCE
        tables = self.tables()
        asked = 0.0
        while time.monotonic() < deadline:
            found = self.compare(since, tables)
            if not found:
                return time.monotonic() - began
            self._check_audits(found, tables)
            if not found.behind and time.monotonic() - asked > ASK_AGAIN:
                self.do_all("audit")
                asked = time.monotonic()
            time.sleep(0.2)
        raise AssertionError(f"not equal after {timeout * PATIENCE:g} s: {found}")

    def _check_audits(self, found: Difference, tables: dict[str, Any]) -> None:
        """Fail where an audit says equal, and the rows of its vessel differ before it and after it."""
        if not found.wrong & found.proved:
            return
        since = time.time()
        self.do_all("audit")
        time.sleep(2.0)
        again = self.compare(since, tables)
        lying = found.wrong & again.wrong & again.proved
        assert not lying, f"the audits of {sorted(lying)} say equal, but the tables differ: {again}"

    # -- hosts ----------------------------------------------------------------------------------------

    def ask_all(self, ask: Callable[[Host], int]) -> None:
        """Have something asked of all hosts, and wait for as many answers of each."""
        for host, answers in [(host, ask(host)) for host in self.hosts]:
            for _ in range(answers):
                host.answer()

    def _ask_add(self, host: Host, place: int | None = None) -> int:
        chosen = self._on(self.hosts.index(host) if place is None else place)
        for vessel_id in chosen:
            host.ask(
                "add",
                vessel_id=vessel_id,
                database=str(self._database(vessel_id)),
                settings=self._settings,
            )
        if place is not None:
            for _ in chosen:
                host.answer()
        return len(chosen)

    def _new_host(self, place: int) -> Host:
        return Host(self.directory / f"host-{place}.log")

    def _on(self, place: int) -> list[str]:
        return [vessel_id for vessel_id, its in self.place.items() if its == place]

    def _database(self, vessel_id: str) -> Path:
        return self.directory / f"{vessel_id}.sqlite"

    def logs(self) -> Iterable[Path]:
        """The log files of all processes."""
        return (self.shore.log_path, *self.directory.glob("host-*.log"))


def _is_proved(audit: Any, seq: int, since: float) -> bool:
    from arus.protocol.times import parse_time

    if not audit or not audit["equal"] or audit["seq"] != seq:
        return False
    return parse_time(audit["timestamp"]) >= since * 1000


def _said(vessel_id: str, state: Any, vessel: Any) -> str:
    if vessel is None:
        return f"{vessel_id} is not followed"
    wants = {topic.topic: topic.wants for topic in vessel.topics if topic.wants}
    return f"{vessel_id} at {vessel.seq} of {state['seq']} wants {wants}"
