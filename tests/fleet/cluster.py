"""High availability: real vessels, a cluster of three brokers, and two processes that share the partitions.

`python -m tests.fleet.cluster`: a process and a node of the cluster are killed while vessels write; afterwards the
copy is compared row by row, and each vessel's audit says equal. Prints the longest pause of a vessel. Takes two minutes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session as OrmSession

from extensions import db
from tests.fleet.fleet import migrate
from tests.fleet.host import Host
from tests.fleet.ship_app import SECRET_KEY, make_app
from tests.fleet.vessels import rows_of
from tests.support.balancer import Balancer
from tests.support.partitions import PREFIX, Shore
from tests.support.postgres import PostgresServer
from tests.support.rabbitmq_cluster import RabbitMQCluster
from tests.support.waiting import eventually

HOSTS = 2
#: Seconds for which a vessel may have no worker.
LONGEST = 10.0
#: Seconds in which everything must be equal again.
EQUAL_WITHIN = 60


class Stage:
    """Vessels, cluster, database and processes."""

    def __init__(self, directory: Path, stack: ExitStack, vessels: int, partitions: int) -> None:
        server = stack.enter_context(PostgresServer())
        template = directory / "template.sqlite"
        migrate(f"sqlite:///{template}")
        url = server.url(server.create_database())
        migrate(url)
        self.cluster = stack.enter_context(RabbitMQCluster(directory / "cluster"))
        balancer = stack.enter_context(Balancer(self.cluster.ports))
        settings = {
            "MQTT_BROKER_URL": balancer.url,
            "MQTT_TOPIC_PREFIX": PREFIX,
            "MQTT_RECONNECT_PERIOD": "1",
        }
        self.shore = Shore(
            directory, {"DATABASE_URL": url, "SECRET_KEY": SECRET_KEY, **settings}, partitions
        )
        stack.callback(self.shore.close)
        self._app = make_app(url, LOCAL_MODE="false", **settings)
        self.hosts = [
            stack.enter_context(Host(directory / f"host-{number}.log")) for number in range(HOSTS)
        ]
        for number in range(vessels):
            database = directory / f"ship-{number}.sqlite"
            shutil.copy(template, database)
            self.hosts[number % HOSTS].do(
                "add", vessel_id=f"ship-{number}", database=str(database), settings=settings
            )
        self.vessels = vessels

    def all(self, method: str, **arguments: Any) -> dict[str, Any]:
        """A command to all hosts; their answers in one."""
        for host in self.hosts:
            host.ask(method, **arguments)
        found: dict[str, Any] = {}
        for host in self.hosts:
            found |= host.answer() or {}
        return found

    def end_writing(self) -> None:
        """Have the vessels write no more."""
        for host in self.hosts:
            host.do("end")

    def wait_equal(self) -> float:
        """Return the seconds until the copy was equal, row by row and by the audit of each vessel."""
        began, asked = time.monotonic(), 0.0

        def equal() -> bool:
            nonlocal asked
            states = self.all("states")
            wanted = {one: (state["seq"], state["seq"], True) for one, state in states.items()}
            found = self.shore.audits()
            differ = {one: found.get(one) for one in wanted if found.get(one) != wanted[one]}
            if differ and time.monotonic() - asked > 5:
                asked = time.monotonic()
                self.all("audit")
            assert not differ, f"{len(differ)} differ: {differ}, wanted {wanted}"
            return True

        eventually(equal, EQUAL_WITHIN, interval=0.5, message="all vessels are equal by audit")
        rows = {key: row for table in self.all("tables").values() for key, row in table.items()}
        with self._app.app_context(), OrmSession(db.engine) as session:
            assert rows_of(self._app, session) == rows, "the audits say equal, but the rows differ"
        return time.monotonic() - began


def run(directory: Path, vessels: int, partitions: int, rate: float) -> bool:
    """Kill a process and a node; return whether no vessel was without a worker for too long."""
    with ExitStack() as stack:
        stage = Stage(directory, stack, vessels, partitions)
        shore = stage.shore
        shore.note_writes("equipment", "alerts", "work_orders")
        first, second = shore.start(), shore.start()
        half = partitions // 2
        shore.wait_shares({first: partitions - half, second: half})
        stage.all("start")
        eventually(lambda: len(shore.audits()) == vessels, 60, message="all vessels are found")
        for host in stage.hosts:
            host.do("begin", rate=rate / HOSTS)
        shore.wait_steady(vessels)
        # That of the search for vessels ends with its connection.
        found = stage.cluster.nodes[0].sessions()
        kinds = {name: kind for name, kind in found.items() if "_discovery" not in name}
        assert set(kinds.values()) == {"quorum"}, f"queues without replicas: {kinds}"
        print(f"{len(kinds)} sessions, each in a quorum queue", flush=True)
        phases = [("all is well", shore.now())]
        time.sleep(5)

        phases.append(("a process is killed", shore.now()))
        second.kill()
        shore.wait_shares({first: partitions})
        shore.wait_steady(vessels)

        phases.append(("another one joins", shore.now()))
        third = shore.start()
        shore.wait_shares({first: partitions - half, third: half})
        shore.wait_steady(vessels)

        phases.append(("a node is killed", shore.now()))
        stage.cluster.nodes[0].kill()
        shore.wait_steady(vessels)
        shore.wait_shares({first: partitions - half, third: half})

        phases.append(("a node and a process are killed", shore.now()))
        stage.cluster.nodes[0].begin()
        stage.cluster.nodes[0].wait()
        stage.cluster.nodes[1].kill()
        first.kill()
        shore.wait_shares({third: partitions})
        shore.wait_steady(vessels)
        phases.append(("the end", shore.now()))
        stage.end_writing()
        print(f"equal after {stage.wait_equal():.1f} s", flush=True)
        return _tell(shore, phases)


def _tell(shore: Shore, phases: list[tuple[str, float]]) -> bool:
    twice = shore.written_twice()
    changes = shore.query("SELECT count(*) FROM written")[0][0]
    print(f"{changes} rows written, {len(twice)} versions of rows more than once")
    fine = not twice
    for (what, begin), (_, end) in pairwise(phases):
        pause = shore.longest_pause(begin, end)
        fine = fine and pause <= LONGEST
        print(f"{what}: the longest pause of a vessel is {pause:.1f} s")
    return fine


def main() -> int:
    """Run; the exit code says whether it went well."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.cluster", description=__doc__)
    parser.add_argument("--vessels", type=int, default=12)
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--rate", type=float, default=24, help="changes a second, of all vessels")
    parser.add_argument("--directory", type=Path, help="keep the logs here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="arus-cluster-") as name:
        directory = given.directory or Path(name)
        directory.mkdir(exist_ok=True)
        return 0 if run(directory, given.vessels, given.partitions, given.rate) else 1


if __name__ == "__main__":
    sys.exit(main())
