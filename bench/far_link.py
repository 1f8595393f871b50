"""How much of a far or slow link does a backlog use, with default settings?"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from bench.backlog import check_delivered, child, copy, forget, make_backlog, make_payloads
from bench.report import Report, machine
from bench.slow_link import Profile, SlowLink
from tests.support.mosquitto import Mosquitto

#: One round takes two minutes, nearly all of it the links' own delay, which is the same in each.
ROUNDS = 1
#: A link of 600 ms is waited for; a hundred are enough for a rate that nothing but the round trip limits.
MANY, FEW, FEWER = 10_000, 200, 100
TOPIC = "work_orders"

NEAR = Profile("no distance", 0.0)
STEADY = Profile("600 ms, steady", 0.6, jitter=0.05)
SATELLITE = Profile("600 ms", 0.6, jitter=0.05, late=0.02, lateness=0.6)
NARROW = Profile("64 kbit/s", 0.3, rate=64_000)

#: Mosquitto as in deploy/mosquitto, except for its log.
AS_DEPLOYED = ("log_type none",)
#: Without writing the broker's state at each change, which would hide the capacity of the link.
LINK_ALONE = (*AS_DEPLOYED, "autosave_on_changes false")
#: With Mosquitto's own default of Receive Maximum.
RECEIVE_MAXIMUM_20 = (*LINK_ALONE, "max_inflight_messages 20")


@dataclass(frozen=True)
class Side:
    """One side of the comparison."""

    name: str
    profile: Profile
    changes: int
    options: tuple[str, ...] = LINK_ALONE
    paho: bool = False
    qos: int = 1
    protocol: str = "auto"
    as_shipped: bool = False


SIDES = (
    Side("no distance, broker saves each change, 10,000 changes", NEAR, MANY, AS_DEPLOYED),
    Side("no distance, 10,000 changes", NEAR, MANY),
    Side("600 ms, no packet late, 10,000 changes", STEADY, MANY),
    Side("600 ms, 10,000 changes", SATELLITE, MANY),
    Side("600 ms, Receive Maximum 20, 100 changes", SATELLITE, FEWER, RECEIVE_MAXIMUM_20),
    Side("600 ms, paho as shipped, 100 messages", SATELLITE, FEWER, paho=True),
    Side("64 kbit/s, 200 changes", NARROW, FEW),
    Side("600 ms, 200 alerts", SATELLITE, FEW, qos=2),
    Side("600 ms, 100 alerts, broker as shipped", SATELLITE, FEWER, (), qos=2, as_shipped=True),
    Side(
        "600 ms, 100 alerts, broker as shipped, MQTT 3.1.1",
        SATELLITE,
        FEWER,
        (),
        qos=2,
        protocol="3.1.1",
        as_shipped=True,
    ),
)

TARGETS = {
    "**600 ms, 10,000 changes**": ">= 800",
    "600 ms, 10,000 changes: sent twice": "<= 0",
    "**64 kbit/s, 200 changes: the link is full**": ">= 0.95",
    "64 kbit/s, 200 changes: sent twice": "<= 0",
}


def run(rounds: int = ROUNDS) -> Report:
    """Drain copies of a backlog over each link."""
    report = Report(
        "far_link",
        "How fast does a backlog reach a broker far away, and what goes over the link for it?",
        {
            "rounds": rounds,
            "QoS": "1, alerts 2",
            "600 ms": "round trip 600 ms +-50 ms, 2 % of the packets 600 ms late and all behind them"
            " held up",
            "64 kbit/s": "each way, round trip 300 ms, headers of 52 bytes a segment counted",
            "broker": "Mosquitto as in deploy/mosquitto, without autosave_on_changes unless stated",
        },
        machine=machine(),
    )
    with tempfile.TemporaryDirectory(prefix="arus-bench-") as name:
        directory = Path(name)
        loads = {(side.qos, side.changes) for side in SIDES}
        backlogs = {load: make_backlog(directory, *load) for load in loads}
        payloads = {
            (qos, count): make_payloads(path, directory / f"payloads-{qos}-{count}", count)
            for (qos, count), path in backlogs.items()
        }
        sizes = {load: path.stat().st_size - load[1] for load, path in payloads.items()}
        figures: defaultdict[str, list[float]] = defaultdict(list)
        for number in range(rounds):
            for side in SIDES:
                load = (side.qos, side.changes)
                seconds, link = _drain(directory, side, backlogs[load], payloads[load], seed=number)
                _note(figures, side, seconds, link, sizes[load])
                said = f"{side.name}: {seconds:.1f} s"
                print(f"far_link: round {number + 1} of {rounds}: {said}", file=sys.stderr)
    for title, values in figures.items():
        quantity, unit = title.rsplit("|", 1)
        report.add(quantity, unit, values, TARGETS.get(quantity))
    return report


def _drain(
    directory: Path, side: Side, backlog: Path, payloads: Path, seed: int
) -> tuple[float, SlowLink]:
    database = directory / "drained.sqlite"
    copy(backlog, database)
    with (
        tempfile.TemporaryDirectory(dir=directory) as place,
        Mosquitto(Path(place), options=side.options, as_shipped=side.as_shipped) as broker,
        SlowLink(broker.port, side.profile, seed) as link,
    ):
        if side.paho:
            arguments = (str(link.port), f"paho/sync/{TOPIC}", "1", "20", str(payloads))
            result = child("bench.drain_paho", *arguments)
        else:
            url = f"mqtt://127.0.0.1:{link.port}"
            result = child("bench.drain_relay", str(database), url, "--protocol", side.protocol)
            check_delivered(database, side.changes)
    forget(database)
    return result["seconds"], link


def _note(
    figures: defaultdict[str, list[float]],
    side: Side,
    seconds: float,
    link: SlowLink,
    payload: int,
) -> None:
    name = side.name
    figures[f"**{name}**|messages/s"].append(side.changes / seconds)
    if side.paho:
        return
    figures[f"{name}: sent twice|messages"].append(link.sent_twice)
    figures[f"{name}: payload|bytes/change"].append(payload / side.changes)
    figures[f"{name}: on the wire, out|bytes/change"].append(link.outward / side.changes)
    figures[f"{name}: on the wire, in|bytes/change"].append(link.inward / side.changes)
    if side.profile.rate:
        carried = 8 / seconds / side.profile.rate
        figures[f"**{name}: the link is full**|ratio"].append(link.outward * carried)
        figures[f"{name}: payload's share of the link|ratio"].append(payload * carried)
