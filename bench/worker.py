"""A process that writes as a worker does, controlled over its standard input.

`python -m bench.worker DATABASE BROKER_URL [writer]`; with `writer` it is not a candidate for leadership. It
answers each line with a line of JSON; times are from the monotonic clock, which is the same in all processes.

- `commit COUNT GAP`: COUNT work orders, each in its own transaction, GAP seconds apart; the message id of
  each and the time at which its commit had returned.
- `batch COUNT`: the same in one transaction.
- `acks`: when this process, as the owner, has received each acknowledgement so far.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from tests.support.gunicorn_app import ROOT, clean_environment
from tests.support.lifecycle import Started
from tools.processes import die_with


class Worker(Started):
    """The parent's handle of such a process."""

    def __init__(self, database: Path, broker_url: str, *, writer: bool = False) -> None:
        parent = os.getpid()
        self._process = subprocess.Popen(
            [
                sys.executable,
                *("-m", "bench.worker", str(database), broker_url),
                *(["writer"] if writer else []),
            ],
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: die_with(parent),  # noqa: PLW1509  # see there
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, command: str) -> None:
        """Send a command; `answer` waits for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Return the answer to the oldest unanswered command."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the worker has ended")
        return json.loads(line)

    def do(self, command: str) -> Any:
        """Send a command and return the answer."""
        self.ask(command)
        return self.answer()

    def ready(self) -> Self:
        """Wait until it accepts commands."""
        self.do("commit 0 0")
        return self

    def kill(self) -> None:
        """SIGKILL it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def close(self) -> None:
        self.kill()


def main(database: str, broker_url: str, *, candidate: bool) -> None:  # noqa: C901  # one command loop, a word a branch
    """Do as told until the standard input ends."""
    from app import create_app
    from arus.mqtt.packets import CONTROL_IDS
    from arus.relay.publisher import Publisher
    from bench.backlog import settings
    from blueprints.equipment.models import Equipment
    from blueprints.work_orders.models import WorkOrder
    from extensions import db, sync

    acks: list[float] = []
    taken = Publisher.acknowledged

    def acknowledged(publisher: Publisher, ack: Any, unread: float = 0.0) -> None:
        if ack.packet_id > CONTROL_IDS:
            acks.append(time.monotonic())
        taken(publisher, ack, unread)

    Publisher.acknowledged = acknowledged  # type: ignore[method-assign]
    app = create_app({**settings(Path(database), broker_url), "MQTT_RECONNECT_PERIOD": "1"})
    made = 0

    def order(equipment_id: str) -> WorkOrder:
        nonlocal made
        made += 1
        return WorkOrder(
            wo_number=f"{os.getpid()}-{made}",
            equipment_id=equipment_id,
            reason="Cylinder 4: exhaust valve leaks",
            description="Found at the daily round. " * 4,
        )

    def commit(orders: list[WorkOrder]) -> list[tuple[str | None, float]]:
        db.session.add_all(orders)
        db.session.commit()
        now = time.monotonic()
        receipts = [sync.publish_change("create", each) for each in orders]
        db.session.remove()
        return [(receipt.message_id if receipt else None, now) for receipt in receipts]

    with app.app_context():
        engine = Equipment(name="Main engine", type="engine")
        db.session.add(engine)
        db.session.commit()
        equipment_id = engine.id
        db.session.remove()
        if candidate:
            sync.start(app)
        for line in sys.stdin:
            said: Any
            match line.split():
                case ["commit", count, gap]:
                    said = []
                    for _ in range(int(count)):
                        said += commit([order(equipment_id)])
                        time.sleep(float(gap))
                case ["batch", count]:
                    said = commit([order(equipment_id) for _ in range(int(count))])
                case ["acks"]:
                    said = acks
                case other:
                    raise SystemExit(f"unknown command: {other}")
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    _, database_, broker_url_, *rest_ = sys.argv
    main(database_, broker_url_, candidate="writer" not in rest_)
