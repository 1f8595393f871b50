"""A fleet through all that happens at sea: `make soak FLEET=150 PROCESSES=3`.

After each phase the copy is equal: the audit of each vessel says so, and all rows are compared. Prints a table of
what each phase took.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fleet.attacks import ATTACKS
from tests.fleet.fleet import PREFIX, Fleet, migrate
from tests.fleet.hostile import PIRATE, Hostile
from tests.fleet.lag import keep_commit_times, lags_of, percentile
from tests.fleet.tap import Traffic
from tests.support.postgres import PostgresServer

#: Rows of each vessel when it joins.
ROWS = 1000
#: Seconds of steady work, and of a vessel's pause between two changes in it.
STEADY, PAUSE = 20.0, 5.0
#: Changes that each vessel makes while the follower is away.
AWAY = 500
#: Changes of a busy ship in 72 hours; its queue's bound is 10,000.
OUTAGE = 52_000
#: Rows that one vessel creates at once.
FLOOD = 20_000
#: What the lying vessel does, of the attacks on small fleets.
LIES = ("forged_heads", "forged_digests", "foreign_rows", "uninvited_catchups")
#: Seconds until everything must be equal again; the patience of the tests multiplies them.
EQUAL_WITHIN = 300.0
_MB = 2**20


@dataclass
class Work:
    """What vessels have done in a phase: how many changes, and the commits of those whose arrival is timed."""

    changes: int = 0
    commits: list[Any] = field(default_factory=list)


@dataclass
class Phase:
    """What one phase has cost; times in seconds."""

    name: str
    changes: int
    #: From the end of the trouble until the audit of each vessel said equal.
    equal_after: float
    traffic: Traffic
    cpu: float
    memory: int
    #: From commit to commit ashore, of the changes that were timed.
    lags: Sequence[float]

    @property
    def cells(self) -> tuple[str, ...]:
        """Its line of the table."""
        lags = [f"{percentile(self.lags, at) * 1000:.0f}" if self.lags else "" for at in (50, 99)]
        return (
            self.name,
            f"{self.changes:,}",
            f"{self.equal_after:.1f}",
            f"{self.traffic.published / max(1, self.changes):.2f}",
            f"{self.traffic.repeated:,}",
            *lags,
            f"{self.cpu / max(1, self.changes) * 1e6:.0f}",
            f"{self.memory / _MB:.0f}",
        )


HEADINGS = (
    "phase",
    "changes",
    "equal after, s",
    "publishes a change",
    "rows sent twice",
    "lag p50, ms",
    "lag p99, ms",
    "follower's CPU a change, us",
    "follower's memory, MB",
)


class Soak:
    """Plays the phases on one fleet."""

    def __init__(self, fleet: Fleet, sizes: argparse.Namespace) -> None:
        self._fleet = fleet
        self._sizes = sizes
        self._since = 0.0
        self.phases: list[Phase] = []
        self.failures: list[str] = []

    def run(self) -> None:
        """Play all, or the chosen ones."""
        plays = {
            "join": self.join,
            "steady": self.steady,
            "follower away": self.follower_away,
            "broker lost its state": self.broker_lost_its_state,
            "outage of 72 hours": self.outage_of_72_hours,
            "flood": self.flood,
            "lies": self.lies,
        }
        for name, play in plays.items():
            if self._sizes.phase and name not in ("join", *self._sizes.phase):
                continue
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                self._measure(name, play)
            except AssertionError as error:
                self.failures.append(f"{name}: {error}")
                return

    def join(self) -> Work:
        """All join at once."""
        self._fleet.follow()
        self._fleet.do_all("start")
        return Work(self._sizes.rows * len(self._fleet.vessel_ids))

    def steady(self) -> Work:
        """Each vessel makes a change now and then."""
        with self._working() as work:
            time.sleep(self._sizes.steady)
        return work

    def follower_away(self) -> Work:
        """The follower is away while each vessel works."""
        self._fleet.shore.leave()
        self._fleet.do_all("write", count=self._sizes.away)
        self._fleet.wait_connected()
        self._since = time.time()
        self._fleet.follow()
        return Work(self._sizes.away * len(self._fleet.vessel_ids))

    def broker_lost_its_state(self) -> Work:
        """The broker is killed, and forgets all sessions and queues."""
        with self._working() as work:
            time.sleep(2)
            self._fleet.broker.kill()
            self._fleet.broker.forget()
            time.sleep(2)
            self._fleet.broker.start()
            time.sleep(2)
        work.commits.clear()  # what was written while the broker was away says nothing of the lag
        return work

    def outage_of_72_hours(self) -> Work:
        """One vessel has no link for as many changes as it makes in 72 hours, while the others work."""
        vessel_id = self._fleet.vessel_ids[0]
        self._fleet.do(vessel_id, "stop")
        self._fleet.do(vessel_id, "write", count=self._sizes.outage)
        self._since = time.time()
        self._fleet.do(vessel_id, "start")
        return Work(self._sizes.outage)

    def flood(self) -> Work:
        """One vessel creates as much as it can, while the others work: their lag is measured."""
        vessel_id = self._fleet.vessel_ids[-1]
        with self._working() as work:
            self._fleet.do(vessel_id, "pour", count=self._sizes.flood, transaction=100)
        work.changes += self._sizes.flood
        return work

    def lies(self) -> Work:
        """Somebody lies in the name of vessels, while all work."""
        tables = self._fleet.tables()
        rows = {
            vessel_id: {
                row["id"]: row
                for key, row in tables[vessel_id].items()
                if key.startswith("equipment/")
            }
            for vessel_id in self._fleet.vessel_ids[:3]
        }
        with self._working() as work, Hostile(self._fleet, self._sizes.seed, rows) as hostile:
            for name in LIES:
                ATTACKS[name].play(hostile)
        return work

    # -- measuring ------------------------------------------------------------------------------------

    @contextmanager
    def _working(self) -> Iterator[Work]:
        """All vessels write during the block; what they have done is known at its end."""
        work = Work()
        self._fleet.begin_writing(len(self._fleet.vessel_ids) / self._sizes.pause, timed=True)
        yield work
        work.commits = self._fleet.end_writing()
        work.changes = len(work.commits)

    def _measure(self, name: str, play: Callable[[], Work]) -> None:
        fleet = self._fleet
        before, cpu = fleet.tap.settled(), _cpu(fleet)
        self._since = 0.0
        work = play()
        self._since = self._since or time.time()
        fleet.wait_proved(self._since, EQUAL_WITHIN)
        equal_after = time.time() - self._since
        used = _cpu(fleet)
        traffic = fleet.tap.settled().since(before)
        found = fleet.compare(0.0)
        assert not found.wrong, f"proved, and {found}"
        assert not found.extra, f"proved, and {found}"
        self.phases.append(
            Phase(
                name,
                work.changes,
                equal_after,
                traffic,
                used - cpu if used >= cpu else used,  # a new process counts from 0
                fleet.shore.memory,
                lags_of(fleet, work.commits),
            )
        )
        print(" | ".join(self.phases[-1].cells), file=sys.stderr, flush=True)


def _cpu(fleet: Fleet) -> float:
    return fleet.shore.cpu if fleet.shore.following else 0.0


def table(soak: Soak) -> str:
    """What the phases have cost, as a Markdown table."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *(phase.cells for phase in soak.phases)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run(sizes: argparse.Namespace) -> bool:
    """Run once; return whether all went well."""
    with PostgresServer() as server, tempfile.TemporaryDirectory(prefix="arus-soak-") as name:
        directory = sizes.keep or Path(name)
        directory.mkdir(exist_ok=True)
        url = keep_commit_times(server)
        migrate(url)
        template = directory / "template.sqlite"
        migrate(f"sqlite:///{template}")
        with Fleet(
            directory,
            url,
            template,
            vessels=sizes.vessels,
            prefix=PREFIX,
            processes=sizes.processes,
            as_shipped=not sizes.queue,
        ) as fleet:
            fleet.ignored = PIRATE
            fleet.do_all("fill", rows=sizes.rows)
            soak = Soak(fleet, sizes)
            soak.run()
            print(f"\n{sizes.vessels} vessels, {sizes.processes} process(es) ashore:\n")
            print(table(soak), flush=True)
            for failure in soak.failures:
                print(f"FAILED {failure[:2000]}", flush=True)
            [[size]] = fleet.shore.query("SELECT pg_database_size(current_database())")
            print(f"\ndatabase {size / _MB:.0f} MB", flush=True)
            return not soak.failures


def main() -> int:
    """Run; the exit code says whether it went well."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.soak", description=__doc__)
    parser.add_argument("--vessels", type=int, default=150)
    parser.add_argument("--processes", type=int, default=1, help="of the follower")
    parser.add_argument("--rows", type=int, default=ROWS, help="of each vessel when it joins")
    parser.add_argument("--steady", type=float, default=STEADY, help="seconds of steady work")
    parser.add_argument("--pause", type=float, default=PAUSE, help="of a vessel between changes")
    parser.add_argument("--away", type=int, default=AWAY, help="changes of each vessel")
    parser.add_argument("--outage", type=int, default=OUTAGE, help="changes of one vessel")
    parser.add_argument("--flood", type=int, default=FLOOD, help="rows that one vessel creates")
    parser.add_argument("--phase", action="append", help="only this one, after join")
    parser.add_argument("--keep", type=Path, help="a folder for the logs and databases")
    parser.add_argument("--seed", type=int, default=1, help="of the lies")
    parser.add_argument(
        "--queue", action="store_true", help="a broker that keeps a million messages"
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is taken down
    return 0 if run(parser.parse_args()) else 1


if __name__ == "__main__":
    sys.exit(main())
