"""Processes that share the partitions of a follower, the vessels that they follow, and who holds what and when."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import orjson
from sqlalchemy import create_engine, text

from arus.follower.link import read_links
from arus.follower.partitions.report import PartitionStatus, read_partitions
from tests.support.follower import FollowerProcess, ScriptedVessel
from tests.support.lifecycle import Started
from tests.support.waiting import eventually

PREFIX = "fleet/{vessel_id}/sync"

#: Notes each write of a row, whoever makes it: a follower disables all triggers but those that are always enabled.
_WRITES = """
CREATE TABLE written (entity text, id text, version int, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN INSERT INTO written VALUES (TG_TABLE_NAME, NEW.id, NEW.version); RETURN NEW; END$$;
"""
_WRITES_OF = """
CREATE TRIGGER note AFTER INSERT OR UPDATE ON {0} FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE {0} ENABLE ALWAYS TRIGGER note;
"""
#: All other fields of a member of the crew: a digest is over all of them.
BLANK = dict.fromkeys(("rank", "department", "email", "phone", "notes"))


class Shore:
    """The database of a partitioned follower, and the processes on it."""

    def __init__(self, directory: Path, settings: Mapping[str, str], partitions: int) -> None:
        self.directory = directory
        self.settings = {**settings, "MQTT_TOPIC_PREFIX": PREFIX}
        self.partitions = partitions
        self.engine = create_engine(settings["DATABASE_URL"], pool_pre_ping=True)
        self.processes: list[FollowerProcess] = []

    def start(self, **settings: str) -> FollowerProcess:
        """Start another process."""
        log = self.directory / f"process-{len(self.processes)}.log"
        options = ("--partitions", str(self.partitions))
        process = FollowerProcess(log, {**self.settings, **settings}, *options)
        self.processes.append(process)
        return process

    def close(self) -> None:
        """Kill all processes."""
        for process in self.processes:
            process.kill()
        self.engine.dispose()

    def note_writes(self, *tables: str) -> None:
        """Note each write of a row of some tables from now on."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql(_WRITES)
            for table in tables:
                connection.exec_driver_sql(_WRITES_OF.format(table))

    def wait_steady(self, vessels: int, timeout: float = 60) -> None:
        """Return once rows of all vessels were written that were changed after this call."""
        begin = self.now()
        statement = "SELECT count(*) FROM arus_vessel WHERE changed_at > :begin * 1000 AND online"

        def steady() -> bool:
            return bool(self.query(statement, begin=begin)[0][0] == vessels)

        eventually(steady, timeout, interval=0.1, message="changes of all vessels are applied")

    def written_twice(self) -> list[Any]:
        """Versions of rows that were written more than once."""
        return self.query(
            "SELECT entity, id, version, count(*) FROM written GROUP BY 1, 2, 3 HAVING count(*) > 1"
        )

    def query(self, statement: str, **arguments: Any) -> list[Any]:
        """Rows of the database."""
        with self.engine.connect() as connection:
            return list(connection.execute(text(statement), arguments))

    def state(self) -> tuple[PartitionStatus, ...]:
        """All partitions."""
        with self.engine.connect() as connection:
            return read_partitions(connection, read_links(connection))

    def held(self) -> dict[int, list[int]]:
        """The partitions that each process holds, by process id."""
        found: dict[int, list[int]] = {}
        for one in self.state():
            if one.held and one.pid is not None:
                found.setdefault(one.pid, []).append(one.number)
        return found

    def wait_shares(self, shares: Mapping[FollowerProcess, int], timeout: float = 60) -> None:
        """Return once each process has so many partitions, all with a session where they have vessels."""
        wanted = {process.child.pid: share for process, share in shares.items() if share}

        def shared() -> bool:
            state = self.state()
            found = {pid: len(numbers) for pid, numbers in self.held().items()}
            assert found == wanted, f"{found} instead of {wanted}"
            late = [one for one in state if not has_worker(one)]
            assert not late, late
            return True

        eventually(shared, timeout, interval=0.1, message="the partitions are shared")

    def now(self) -> float:
        """The database's time, in seconds since the epoch."""
        return float(self.query("SELECT extract(epoch FROM clock_timestamp())")[0][0])

    def longest_pause(self, begin: float, end: float) -> float:
        """The longest time in seconds between two writes for one vessel, all of which change rows all the time."""
        found = self.query(
            "SELECT max(pause) FROM (SELECT extract(epoch FROM w.at - lag(w.at) OVER ("
            "PARTITION BY r.vessel_id ORDER BY w.at)) AS pause, w.at FROM written w"
            " JOIN arus_row r ON r.entity = w.entity AND r.row_id = w.id) AS found"
            " WHERE at BETWEEN to_timestamp(:begin) AND to_timestamp(:end)",
            begin=begin,
            end=end,
        )
        return float(found[0][0])

    def audits(self) -> dict[str, tuple[Any, ...]]:
        """Of each vessel its number, and the number and the verdict of its last audit."""
        found = {}
        for row in self.query("SELECT vessel_id, seq, audit FROM arus_vessel"):
            audit = orjson.loads(row.audit) if row.audit else {"seq": -1, "equal": False}
            found[row.vessel_id] = (row.seq, audit["seq"], audit["equal"])
        return found

    def wait_equal(self, ships: Sequence[ScriptedVessel], timeout: float = 60) -> None:
        """Return once an audit of each vessel at its last number says equal, and the rows are those of the vessels."""
        asked = 0.0

        def equal() -> bool:
            nonlocal asked
            if time.monotonic() - asked > 5:
                asked = time.monotonic()
                for ship in ships:
                    ship.status()
                    ship.publish("system/digest", ship.digest_document())
            wanted = {ship.vessel_id: (ship.seq, ship.seq, True) for ship in ships}
            found = self.audits()
            differ = {
                one: found.get(one) for one, state in wanted.items() if found.get(one) != state
            }
            assert not differ, f"{len(differ)} differ: {dict(list(differ.items())[:3])}"
            return True

        eventually(equal, timeout, interval=0.2, message="all vessels are equal by audit")
        rows = {(row.id, row.version) for row in self.query("SELECT id, version FROM crew")}
        assert rows == {
            (row_id, row["version"]) for ship in ships for (_, row_id), row in ship.rows.items()
        }


def has_worker(one: PartitionStatus) -> bool:
    """Whether a process has the partition, and has made its session since it took it."""
    link = one.link
    return one.held and (
        not one.vessels
        or (link is not None and link.connected and link.changed_at >= (one.since or 0))
    )


class Writers(Started):
    """Changes rows of all vessels in turn, at a rate, until told to stop."""

    def __init__(self, ships: Sequence[ScriptedVessel], rate: float) -> None:
        self._ships = ships
        self._pause = 1 / rate
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: Exception | None = None
        #: Changes that were made.
        self.changes = 0

    def start(self) -> Self:
        self._thread.start()
        return self

    def end(self) -> int:
        """Stop; the number of changes that were made."""
        self._ended.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self.changes

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._ended.wait(self._pause):
                ship = self._ships[self.changes % len(self._ships)]
                known = [row_id for _, row_id in ship.rows]
                row_id = known[self.changes % len(known)] if known and self.changes % 3 else None
                ship.change("crew", {**BLANK, "name": f"sailor {self.changes}"}, row_id=row_id)
                self.changes += 1
        except Exception as error:  # noqa: BLE001  # whoever ends it is told
            self._error = error
