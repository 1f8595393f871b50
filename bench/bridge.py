"""What does a bridge between the ship's broker and the shore's do with an outage, compared with a direct connection?

python -m bench.bridge [--rounds 3]: prints the table of deploy/mosquitto/README.md. Not a part of `make bench`, as it compares
two ways of using Mosquitto. Each case takes a minute.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.support.bridge import PREFIX, VESSEL_ID, Brokers
from tests.support.gunicorn_app import flask
from tests.support.subscriber import Subscriber
from tests.support.vessel import Vessel

CHANGES, ALERTS = 1_000, 100
#: Seconds: long enough for several attempts to connect.
OUTAGE = 20.0


@dataclass(frozen=True)
class Outcome:
    """One run."""

    #: Seconds from the return of the link until all had arrived.
    recovery: float
    lost: int
    #: Changes of QoS 1, and alerts, that arrived more than once.
    repeated: int
    repeated_alerts: int
    #: First deliveries that came after a newer one of their topic.
    out_of_order: int


def nothing(_brokers: Brokers, _shore: Subscriber) -> None:
    """Only the link was away."""


def cut_again(brokers: Brokers, shore: Subscriber) -> None:
    """Cut the link twice more, each time when a part has arrived."""
    for part in (3, 2):
        there = len(shore.changes())
        wanted = there + (CHANGES + ALERTS) // (2 * part)
        shore.wait_until(lambda wanted=wanted: len(shore.changes()) >= wanted, 120, "a part")  # type: ignore[misc]
        brokers.cut()
        brokers.restore()


def kill_ships_broker(brokers: Brokers, _shore: Subscriber) -> None:
    """SIGKILL of the ship's broker while the link is away; without a bridge there is none."""
    if brokers.ship:
        brokers.ship.kill()
        brokers.ship.start()


@dataclass(frozen=True)
class Case:
    """What happens, and when: while the link is away, or afterwards."""

    name: str
    distance: float = 0.0
    away: Callable[[Brokers, Subscriber], None] = nothing
    back: Callable[[Brokers, Subscriber], None] = nothing


CASES = (
    Case("outage of 20 s"),
    Case("outage of 20 s, round trip 600 ms", distance=0.3),
    Case("the same, and the link is cut twice while the backlog drains", distance=0.3, back=cut_again),
    Case("outage of 20 s; the ship's broker is killed meanwhile", away=kill_ships_broker),
)  # fmt: skip


def measure(case: Case, directory: Path, *, bridged: bool, seed: int) -> Outcome:
    """Run one case."""
    url = f"sqlite:///{directory}/ship.sqlite"
    flask("db", "upgrade", settings={"DATABASE_URL": url, "SECRET_KEY": "for-a-benchmark-only"})
    with (
        Brokers(
            directory, bridged=bridged, quick=False, distance=case.distance, seed=seed
        ) as brokers,
        Vessel(
            url,
            MQTT_BROKER_URL=brokers.url,
            VESSEL_ID=VESSEL_ID,
            MQTT_TOPIC_PREFIX="fleet/{vessel_id}/sync",
            MQTT_RECONNECT_PERIOD="5",
        ) as vessel,
        Subscriber(brokers.shore.port, f"{PREFIX}/#", client_id="shore") as shore,
    ):
        vessel.wait_connected()
        first = vessel.commit(1)
        shore.wait_for(lambda m: m.json.get("messageId") == first[0], what="the first change")
        brokers.cut()
        began = time.monotonic()
        ids = {
            "work_orders": vessel.commit(CHANGES),
            "alerts": vessel.commit(ALERTS, "alerts"),
        }
        if bridged:
            vessel.wait_drained(60)
        case.away(brokers, shore)
        time.sleep(max(0.0, began + OUTAGE - time.monotonic()))
        brokers.restore()
        restored = time.monotonic()
        case.back(brokers, shore)
        wanted = {one for each in ids.values() for one in each}

        def all_arrived() -> bool:
            return wanted <= {change["messageId"] for change in shore.changes()}

        try:
            shore.wait_until(all_arrived, 30, "everything")
        except AssertionError:
            print("  not everything arrived", file=sys.stderr)
        recovery = max(message.at for message in shore.messages) - restored
        vessel.wait_drained(60)
        arrived = Counter(change["messageId"] for change in shore.changes())
        return Outcome(
            recovery,
            lost=len(wanted - set(arrived)),
            repeated=sum(arrived[one] > 1 for one in ids["work_orders"]),
            repeated_alerts=sum(arrived[one] > 1 for one in ids["alerts"]),
            out_of_order=out_of_order(shore, ids),
        )


def out_of_order(shore: Subscriber, ids: dict[str, list[str]]) -> int:
    """Return how many first deliveries came after a newer change of their topic."""
    found = 0
    for topic, order in ids.items():
        place = {one: number for number, one in enumerate(order)}
        seen = dict.fromkeys(c["messageId"] for c in shore.changes(topic))
        numbers = [place[one] for one in seen if one in place]
        found += sum(before > after for before, after in pairwise(numbers))
    return found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.bridge", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    print("| case | | recovery | lost | repeated, QoS 1 | repeated alerts | out of order |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES:
        for bridged in (False, True):
            outcomes = []
            for number in range(rounds):
                with tempfile.TemporaryDirectory(prefix="arus-bridge-") as place:
                    outcome = measure(case, Path(place), bridged=bridged, seed=number)
                outcomes.append(outcome)
                print(f"  {case.name}, bridged={bridged}: {outcome}", file=sys.stderr, flush=True)
            print(row(case, outcomes, bridged=bridged), flush=True)
    return 0


def row(case: Case, outcomes: list[Outcome], *, bridged: bool) -> str:
    """Return a line of the table: medians, or the range of what differs."""
    seconds = sorted(outcome.recovery for outcome in outcomes)
    numbers = [
        spread([getattr(outcome, name) for outcome in outcomes])
        for name in ("lost", "repeated", "repeated_alerts", "out_of_order")
    ]
    way = "bridge" if bridged else "direct"
    recovery = f"{statistics.median(seconds):.1f} s ({seconds[0]:.1f} to {seconds[-1]:.1f})"
    return f"| {case.name} | {way} | {recovery} | {' | '.join(numbers)} |"


def spread(values: list[int]) -> str:
    """Return a number, or the smallest and the largest."""
    return str(values[0]) if len(set(values)) == 1 else f"{min(values)} to {max(values)}"


if __name__ == "__main__":
    sys.exit(main())
