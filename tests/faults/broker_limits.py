"""A backlog drained through link cuts and owner kills, at a Mosquitto as shipped with each of its limits.

`python -m tests.faults.broker_limits --seed 7` runs each limit with each MQTT version, and prints a table.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.faults.link import Link, Mode
from tests.support.gunicorn_app import flask
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.vessel import Vessel, VesselProcess
from tests.support.waiting import free_port

LIMITS = (1, 5, 20, 0)
PROTOCOLS = ("3.1.1", "5", "auto")
#: Of Mosquitto's default.
DEFAULT = 20
BACKLOG, CUTS, KILLS = 2_000, 50, 10
#: Seconds without a new message after which the drain is not getting on, and for the whole of it at the end.
STALLED, DRAIN = 20.0, 120.0


@dataclass(frozen=True)
class Outcome:
    """What the subscriber of one run has seen."""

    seconds: float
    alerts_lost: int
    alerts_repeated: int
    others_lost: int
    #: First deliveries that came after a later one of their topic.
    out_of_order: int

    @property
    def is_right(self) -> bool:
        """Whether nothing was lost, repeated at QoS 2 or out of order."""
        return not (
            self.alerts_lost or self.alerts_repeated or self.others_lost or self.out_of_order
        )


def run(
    database_url: str,
    directory: Path,
    *,
    limit: int,
    protocol: str,
    seed: int,
    backlog: int = BACKLOG,
    cuts: int = CUTS,
    kills: int = KILLS,
) -> Outcome:
    """Queue a backlog of which half are alerts, and drain it while links are cut and owners killed.

    :param database_url: of a migrated database of its own.
    :param limit: Mosquitto's `max_inflight_messages`.
    """
    chance = random.Random(seed)
    with ExitStack() as stack:
        options = [] if limit == DEFAULT else [f"max_inflight_messages {limit}"]
        mosquitto = stack.enter_context(Mosquitto(directory, as_shipped=True, options=options))
        link = Link(free_port(), mosquitto.port, seed, distance=0)
        link.start()
        stack.callback(link.stop)
        subscriber = stack.enter_context(Subscriber(mosquitto.port, "vessel/sync/#"))
        settings = {"MQTT_PROTOCOL": protocol, "MQTT_BROKER_URL": f"mqtt://127.0.0.1:{link.port}"}
        with Vessel(database_url, **settings) as writer:
            writer.stop()
            for _ in range(backlog // 20):
                writer.commit(10, "alerts", notify=False)
                writer.commit(10, notify=False)
        began = time.monotonic()
        faults = ["cut"] * cuts + ["kill"] * kills
        chance.shuffle(faults)
        owner = VesselProcess(database_url, directory / "vessel.log", **settings)
        stack.callback(lambda: owner.kill())  # noqa: PLW0108  # the owner of that time
        # Half of it while faults go on, so that the last ones meet messages under way too.
        step = backlog // 2 // len(faults)
        for number, fault in enumerate(faults):
            subscriber.wait((number + 1) * step, STALLED)
            if fault == "kill":
                owner.kill()
                owner = VesselProcess(database_url, directory / "vessel.log", **settings)
            else:
                link.set_mode(chance.choice([Mode.DOWN, Mode.CUT_IN, Mode.CUT_OUT]))
                time.sleep(chance.uniform(0.01, 0.1))
                link.set_mode(Mode.OPEN)
        with Vessel(database_url, **settings) as observer:
            owner.kill()
            observer.wait_drained(DRAIN)
        seconds = time.monotonic() - began
        time.sleep(1)  # a repeat that is under way must have its chance to be seen
        return _judge(subscriber, backlog, seconds)


def _judge(subscriber: Subscriber, backlog: int, seconds: float) -> Outcome:
    alerts = Counter(each["seq"] for each in subscriber.changes("alerts"))
    others = Counter(each["seq"] for each in subscriber.changes("work_orders"))
    return Outcome(
        seconds=seconds,
        alerts_lost=backlog // 2 - len(alerts),
        alerts_repeated=alerts.total() - len(alerts),
        others_lost=backlog // 2 - len(others),
        # A Counter keeps the order of first deliveries.
        out_of_order=_inversions(list(alerts)) + _inversions(list(others)),
    )


def _inversions(seqs: Sequence[int]) -> int:
    return sum(earlier > later for earlier, later in pairwise(seqs))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code says whether anything was lost, repeated or out of order."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.broker_limits")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 10**6))
    parser.add_argument("--limit", type=int, choices=LIMITS, action="append")
    parser.add_argument("--protocol", choices=PROTOCOLS, action="append")
    given = parser.parse_args(arguments)
    print(f"seed {given.seed}; {BACKLOG} changes, half of them alerts; {CUTS} cuts, {KILLS} kills")
    print("| max_inflight_messages | MQTT | alerts lost | repeated | others lost | disorder | s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    right = True
    for limit in given.limit or LIMITS:
        for protocol in given.protocol or PROTOCOLS:
            place = Path(tempfile.mkdtemp(prefix=f"arus-limits-{limit}-{protocol}-"))
            database_url = f"sqlite:///{place}/arus.sqlite"
            secret = {"SECRET_KEY": "for-tests-only-and-long-enough"}
            flask("db", "upgrade", settings={"DATABASE_URL": database_url, **secret})
            found = run(database_url, place, limit=limit, protocol=protocol, seed=given.seed)
            if found.is_right:
                shutil.rmtree(place)  # otherwise it is kept for a person to look at
            right = right and found.is_right
            print(
                f"| {limit} | {protocol} | {found.alerts_lost} | {found.alerts_repeated}"
                f" | {found.others_lost} | {found.out_of_order} | {found.seconds:.0f} |",
                flush=True,
            )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
