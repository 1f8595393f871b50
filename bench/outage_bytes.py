"""How many bytes does a long outage cost, against the minimum of sending each changed row once?

The relay runs in this process, on a broker in memory: bytes are counted, no time. So the figures are the same in each
run, and `tests/integration/test_supersede.py` checks them at a smaller scale.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import MetaData, text

from arus.database import open_engine, transaction
from arus.outbox.tables import define
from arus.protocol.entries import new_message_id
from arus.testing import MemoryBroker
from bench.report import Report, machine
from tests.support.vessel import Vessel
from tests.support.waiting import eventually

#: 18 hours of work, and the bound on the queue; a quarter of an outage with 52,000 changes and room for 10,000.
CHANGES, BOUND = 13_000, 2_500
#: Changes in a transaction.
_COMMIT = 100
_BEGIN = 1_795_334_400_000
_INSERT = text(
    "INSERT INTO arus_change (message_id, entity, topic, qos, operation, row_id, version,"
    " committed_at, data) VALUES (:message_id, :topic, :topic, :qos, :operation, :row_id, :version,"
    " :committed_at, :data)"
)

#: Operation, row id, version.
Change = tuple[str, str, int]


@dataclass(frozen=True)
class Sent:
    """What an outage has cost."""

    #: Payload bytes of changes and catch-ups, of both.
    sent: int
    #: Those that a message for each changed row, once, would have had.
    minimum: int
    messages: int
    rows: int
    superseded: int
    dropped: int
    #: The last version of each row that a subscriber has received, and that the vessel has.
    received: dict[str, int]
    expected: dict[str, int]

    @property
    def ratio(self) -> float:
        """Bytes sent, of the minimum."""
        return self.sent / self.minimum


def updates_of(rows: int, changes: int) -> Iterator[Change]:
    """Updates of the same rows, one after the other."""
    for number in range(changes):
        yield "update", f"row-{number % rows}", number // rows + 2


def mixed(changes: int, new: float, seed: int = 72) -> Iterator[Change]:
    """A share of new rows, and updates and deletes of any that there are."""
    chance = random.Random(seed)
    versions: dict[str, int] = {}
    alive: list[str] = []
    for number in range(changes):
        drawn = chance.random()
        if drawn < new or not alive:
            row = f"row-{number}"
            alive.append(row)
            versions[row] = 1
            yield "create", row, 1
            continue
        at = chance.randrange(len(alive))
        row = alive[at]
        versions[row] += 1
        if drawn < new + 0.03:
            alive[at] = alive[-1]
            alive.pop()
            yield "delete", row, versions[row]
        else:
            yield "update", row, versions[row]


def rehearse(
    directory: Path, changes: Sequence[Change], *, bound: int, supersede: str = "always"
) -> Sent:
    """Commit changes while the broker is away, let it return, and count what is sent."""
    url = f"sqlite:///{directory}/outage-{supersede}.sqlite"
    engine = open_engine(url)
    metadata = MetaData()
    define(metadata)
    metadata.create_all(engine)
    engine.dispose()
    broker = MemoryBroker()
    broker.go_offline()
    vessel = Vessel(url, MQTT_MAX_QUEUE_SIZE=bound, MQTT_SUPERSEDE=supersede)
    vessel.open_session = broker.open_session
    with vessel:
        _commit(vessel, changes)
        # Not by the depth: a vessel that has numbered nothing yet has none either.
        eventually(
            lambda: vessel.status().head_seq == len(changes), 300, message="all are numbered"
        )
        broker.go_online()
        vessel.wait_connected()
        vessel.wait_drained(300)
        eventually(lambda: _is_repaired(vessel), 300, message="dropped rows are sent")
        return _count(vessel, broker, changes)


def _commit(vessel: Vessel, changes: Sequence[Change]) -> None:
    for begin in range(0, len(changes), _COMMIT):
        rows = [_row(begin + at, each) for at, each in enumerate(changes[begin : begin + _COMMIT])]
        with vessel.engine.connect() as connection, transaction(connection):
            connection.execute(_INSERT, rows)
        vessel.notifier.notify()


def _row(number: int, change: Change) -> dict[str, Any]:
    operation, row_id, version = change
    at = _BEGIN + number * 5_000
    data = {
        "id": row_id,
        "version": version,
        "reason": f"Lubricating oil pressure low on cylinder {number % 8}",
        "description": "Found during the round; the filter was changed and the pump is observed. "
        * 6,
        "status": "in_progress",
    }
    return {
        "message_id": new_message_id(at),
        "topic": "work_orders",
        "qos": 1,
        "operation": operation,
        "row_id": row_id,
        "version": version,
        "committed_at": at,
        "data": orjson.dumps(data),
    }


def _is_repaired(vessel: Vessel) -> bool:
    return not vessel.query(
        "SELECT 1 FROM arus_catchup WHERE status <> 'complete'"
        " UNION ALL SELECT 1 FROM arus_change WHERE reason = 'queue full'"
    )


def _count(vessel: Vessel, broker: MemoryBroker, changes: Sequence[Change]) -> Sent:
    sent = 0
    received: dict[str, int] = {}
    messages = [one for one in broker.messages if one.topic.endswith("work_orders")]
    sizes: dict[str, int] = {}
    for message in messages:
        sent += len(message.data)
        if message.payload["type"] in {"data_change", "catchup"}:
            row = message.payload["data"]["id"]
            received[row] = max(received.get(row, 0), message.payload["version"])
            extra = {"catchupId", "sequence", "total"} & message.payload.keys()
            plain = {k: v for k, v in message.payload.items() if k not in extra}
            sizes[row] = len(orjson.dumps(plain | {"type": "data_change"}))
    status = vessel.status()
    return Sent(
        sent,
        sum(sizes.values()),
        len(messages),
        len(sizes),
        status.counter("messages_superseded"),
        status.counter("messages_dropped"),
        received,
        {row: version for _, row, version in changes},
    )


def run(rounds: int = 1) -> Report:
    """Rehearse both kinds of work with both values of `MQTT_SUPERSEDE`."""
    report = Report(
        "outage_bytes",
        f"What does an outage with {CHANGES:,} changes cost, with room for {BOUND:,}?",
        {"broker": "in memory", "counted": "payload bytes of changes and catch-ups"},
        machine=machine(),
    )
    works = {
        "updates of 50 rows": list(updates_of(50, CHANGES)),
        "mixed, a tenth new rows": list(mixed(CHANGES, 0.1)),
        "mixed, a quarter new rows": list(mixed(CHANGES, 0.25)),
    }
    for name, changes in works.items():
        for supersede in ("overflow", "always"):
            with tempfile.TemporaryDirectory(prefix="arus-bench-") as directory:
                found = rehearse(Path(directory), changes, bound=BOUND, supersede=supersede)
            assert found.received == found.expected, "a row did not arrive"
            report.add(f"{name}, {supersede}: sent", "MB", [found.sent / 1e6] * rounds)
            target = "<= 1.2" if supersede == "always" else None
            report.add(
                f"**{name}, {supersede}: of the minimum**", "", [found.ratio] * rounds, target
            )
    return report
