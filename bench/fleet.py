"""What does a fleet cost the shore, and how does that grow: 1, 10 and 50 real vessels with one follower?

`python -m bench.fleet --vessels 10 --vessels 50 --vessels 150` measures other fleets, and keeps nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import Report, p99
from tests.fleet.fleet import PREFIX, Fleet, migrate
from tests.fleet.host import memory_of
from tests.fleet.lag import keep_commit_times, lags_of
from tests.support.postgres import PostgresServer
from tests.support.waiting import eventually

VESSELS = (1, 10, 50)
#: Rows of each vessel when it joins.
ROWS = 400
#: Changes of all vessels together that arrive at once, fewer than the broker as shipped keeps for a client; how often.
BURST, BURSTS = 800, 4
#: Seconds of steady work, in which each vessel makes a change each five seconds, and all together at least ten a second.
STEADY, EACH, AT_LEAST = 10.0, 5.0, 10.0
#: Seconds in which all must be proved equal after joining; the patience of the tests multiplies them.
PROVED_WITHIN = 150.0
#: The time to join may grow as the fleet, and by a third more.
GROWTH = 4 / 3
_MB = 2**20


@dataclass
class Measured:
    """What one fleet has shown; times in seconds, memory in MB."""

    vessels: int
    joined: float = 0.0
    proved: float = 0.0
    repeated: int = 0
    join_cpu: float = 0.0
    change_cpu: float = 0.0
    published: float = 0.0
    delivered: float = 0.0
    delivered_bytes: float = 0.0
    lag_p50: float = 0.0
    lag_p99: float = 0.0
    follower: float = 0.0
    vessel: float = 0.0
    broker: float = 0.0


def run(rounds: int = 1) -> Report:
    """Measure the fleets of `VESSELS`."""
    report = Report(
        "fleet",
        "What does a fleet cost the shore, and how does that grow?",
        {
            "rounds": rounds,
            "vessels": "real ones, each with its SQLite file, in two processes on the same two cores",
            "rows": f"{ROWS:,} of each vessel when it joins",
            "broker": "Mosquitto as Debian ships it",
            "shore": "flask sync follow on PostgreSQL",
        },
    )
    add(report, [[measure(count) for count in VESSELS] for _ in range(rounds)])
    return report


def add(report: Report, rounds: Sequence[Sequence[Measured]]) -> None:
    """Add the figures of fleets of several sizes, the same in each round."""
    for fleets in zip(*rounds, strict=True):
        _add_fleet(report, fleets)
    _add_growth(report, rounds)


def _add_fleet(report: Report, fleets: Sequence[Measured]) -> None:
    count = fleets[0].vessels
    name = f"{count} vessel{'s' if count > 1 else ''}"
    for figure, unit, field, target in (
        ("all rows ashore", "s", "joined", None),
        ("all proved equal", "s", "proved", None),
        ("rows sent twice when joining", "rows", "repeated", "<= 0"),
        ("follower's CPU for a row when joining", "us", "join_cpu", None),
        ("follower's CPU for a change", "us", "change_cpu", None),
        ("published for a change", "messages", "published", "<= 3"),
        ("delivered for a change", "messages", "delivered", "<= 3"),
        ("delivered for a change, payload", "bytes", "delivered_bytes", None),
        ("commit to shore, p50", "ms", "lag_p50", None),
        ("commit to shore, p99", "ms", "lag_p99", "<= 100"),
        ("follower's memory", "MB", "follower", None),
        ("a vessel's memory", "MB", "vessel", None),
        ("broker's memory", "MB", "broker", None),
    ):
        report.add(f"{name}: {figure}", unit, [getattr(one, field) for one in fleets], target)


def _add_growth(report: Report, rounds: Sequence[Sequence[Measured]]) -> None:
    sizes = [one.vessels for one in rounds[0]]
    if 10 not in sizes or sizes[-1] == 10:
        return
    low, high = sizes.index(10), len(sizes) - 1
    ratios = [fleets[high].proved / fleets[low].proved for fleets in rounds]
    most = GROWTH * sizes[-1] / 10
    report.add(f"joining and proof: {sizes[-1]} vessels / 10", "ratio", ratios, f"<= {most:.3g}")


def measure(
    vessels: int, prefix: str = PREFIX, rows: int = ROWS, *, as_shipped: bool = True
) -> Measured:
    """Measure one fleet, from nothing; check at the end that all tables are equal.

    :param as_shipped: the broker keeps a thousand messages for a client, as it does by default; otherwise a million.
    """
    measured = Measured(vessels)
    with PostgresServer() as server, tempfile.TemporaryDirectory(prefix="arus-bench-") as name:
        directory = Path(name)
        url = keep_commit_times(server)
        migrate(url)
        migrate(f"sqlite:///{directory}/template.sqlite")
        template = directory / "template.sqlite"
        options: dict[str, Any] = {"prefix": prefix, "as_shipped": as_shipped}
        with Fleet(directory, url, template, vessels=vessels, **options) as fleet:
            fleet.do_all("fill", rows=rows)
            _join(fleet, measured, rows)
            _say(vessels, f"joined after {measured.joined:.1f} s, proved {measured.proved:.1f} s")
            _bursts(fleet, measured)
            _say(vessels, f"{measured.change_cpu:.0f} us of CPU for a change")
            _steady(fleet, measured)
            _say(vessels, f"lag p99 {measured.lag_p99:.0f} ms")
            measured.follower = fleet.shore.memory / _MB
            used = sum(one["memory"] for one in fleet.do_all("usage"))
            measured.vessel = used / _MB / vessels
            measured.broker = memory_of(fleet.broker.pid) / _MB
            fleet.wait_proved(0.0, PROVED_WITHIN)
            found = fleet.compare(0.0)
            assert not found.wrong, f"proved, and {found}"
            assert not found.extra, f"proved, and {found}"
    _say(vessels, str(measured))
    return measured


def _say(vessels: int, what: str) -> None:
    print(f"fleet: {vessels} vessels: {what}", file=sys.stderr, flush=True)


def _join(fleet: Fleet, measured: Measured, rows: int) -> None:
    """All connect at once; the follower is there."""
    before = fleet.tap.settled()
    total = rows * len(fleet.vessel_ids)
    fleet.follow()
    cpu, since, began = fleet.shore.cpu, time.time(), time.monotonic()
    fleet.do_all("start")
    _wait_for_rows(fleet, total)
    measured.joined = time.monotonic() - began
    fleet.wait_proved(since, PROVED_WITHIN)
    measured.proved = time.monotonic() - began
    measured.join_cpu = (fleet.shore.cpu - cpu) / total * 1e6
    measured.repeated = fleet.tap.settled().since(before).repeated


def _bursts(fleet: Fleet, measured: Measured) -> None:
    """Changes arrive as fast as the vessels send them."""
    rows = _rows(fleet)
    count = max(1, BURST // len(fleet.vessel_ids))
    cpu = fleet.shore.cpu
    made = 0
    for _ in range(BURSTS):
        made += sum(fleet.do_all("create", count=count, transaction=20))
        _wait_for_rows(fleet, rows + made)
    measured.change_cpu = (fleet.shore.cpu - cpu) / made * 1e6


def _steady(fleet: Fleet, measured: Measured) -> None:
    """Each vessel makes a change now and then."""
    fleet.wait_proved(0.0, PROVED_WITHIN)
    before, rows = fleet.tap.settled(), _rows(fleet)
    fleet.begin_writing(max(AT_LEAST, len(fleet.vessel_ids) / EACH), timed=True)
    time.sleep(STEADY)
    commits = fleet.end_writing()
    _wait_for_rows(fleet, rows + len(commits))
    passed = fleet.tap.settled().since(before)
    measured.published = passed.published / len(commits)
    measured.delivered = passed.delivered / len(commits)
    measured.delivered_bytes = passed.delivered_bytes / len(commits)
    lags = lags_of(fleet, commits)
    measured.lag_p50, measured.lag_p99 = lags[len(lags) // 2] * 1000, p99(lags) * 1000


def _rows(fleet: Fleet) -> int:
    [[count]] = fleet.shore.query("SELECT count(*) FROM equipment")
    return int(count)


def _wait_for_rows(fleet: Fleet, count: int) -> None:
    eventually(lambda: _rows(fleet) >= count, 150, interval=0.1, message=f"{count} rows are ashore")


def main() -> None:
    """Measure fleets of the given sizes."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--vessels", action="append", type=int)
    parser.add_argument("--prefix", default=PREFIX, help="MQTT_TOPIC_PREFIX of all")
    parser.add_argument("--rows", type=int, default=ROWS, help="of each vessel when it joins")
    parser.add_argument(
        "--queue", action="store_true", help="a broker that keeps a million messages"
    )
    given = parser.parse_args()
    report = Report("fleet", "What does a fleet cost the shore?", {})
    told: dict[str, Any] = {"prefix": given.prefix, "rows": given.rows}
    measured = [
        measure(count, **told, as_shipped=not given.queue) for count in given.vessels or VESSELS
    ]
    add(report, [measured])
    print(report.table())


if __name__ == "__main__":
    main()
