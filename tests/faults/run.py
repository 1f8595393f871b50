"""One run: a stage, writers, faults; then healing, the oracle, and a fresh write."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.faults.faults import Fault, Faults
from tests.faults.oracle import Account, Verdict, judge
from tests.faults.stage import VESSEL_ID, Stage
from tests.faults.writers import Ledger, Writer
from tests.support.subscriber import Received

WRITERS = 4
#: Seconds for everything to heal, and for a fresh write to arrive.
HEALING, FRESH = 60.0, 10.0


@dataclass(frozen=True)
class Outcome:
    """What a run has shown."""

    verdict: Verdict
    faults: list[Fault]
    #: kinds of faults that could not be had here, and why
    missing: dict[str, str]
    directory: Path
    #: seconds from the end of the faults until nothing was undelivered
    healed_after: float


def run(
    database: str, seed: int, faults: int, *, as_shipped: bool = False, keep: bool = False
) -> Outcome:
    """Let `faults` things go wrong on a fresh stage.

    :param as_shipped: with a broker that has no settings of ours.
    :param keep: write the accounts down even when nothing failed.
    """
    with Stage(database, seed, as_shipped=as_shipped) as stage:
        ledger = Ledger()
        writers = [Writer(number, seed, stage.app, ledger) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        trouble = Faults(stage, seed)
        began = time.monotonic()
        try:
            trouble.run(faults)
            trouble.heal()
        finally:
            _keep_schedule(stage, trouble, began)
            for writer in writers:
                writer.stop()
        for writer in writers:
            writer.join(100)
            assert not writer.is_alive(), f"{writer.name} hangs"
        healed_after = stage.wait_healed(HEALING)
        _settle(stage)
        account = Account(
            ledger=ledger,
            log=stage.database.changes(),
            rows=stage.rows(),
            shore=stage.shore.messages,
            witness=stage.witness.messages,
            mistaken=stage.shore.mistaken,
            packets=stage.link.packets_of(f"arus_sync_{VESSEL_ID}"),
            faults=trouble.done,
            broker_kills=trouble.broker_kills,
            broker_stops=trouble.broker_stops,
        )
        verdict = judge(account)
        _check_fresh_writes(stage, ledger, verdict)
        stage.wait_healed(FRESH)  # arrived is not yet acknowledged
        _check_workers(stage, verdict)
        if keep or verdict.failures:
            _keep_account(stage, account, verdict)
        return Outcome(verdict, trouble.done, trouble.missing, stage.directory, healed_after)


def _settle(stage: Stage) -> None:
    """Wait for the subscribers: what the broker has acknowledged may still be on its way to them."""
    expected = {row["message_id"] for row in stage.database.changes()}
    urgent = {row["message_id"] for row in stage.database.changes() if row["topic"] == "alerts"}
    deadline = time.monotonic() + 10
    for subscriber, wanted in ((stage.shore, expected), (stage.witness, urgent)):
        while time.monotonic() < deadline:
            if wanted <= {change["messageId"] for change in subscriber.changes()}:
                break
            time.sleep(0.2)
    # a repeat that is under way must have its chance to be seen
    time.sleep(0.5)


def _check_fresh_writes(stage: Stage, ledger: Ledger, verdict: Verdict) -> None:
    """Whatever went wrong, the next write must arrive."""
    equipment = next(one.row_id for one in ledger.obligations if one.entity == "equipment")
    bodies = {
        "/api/work-orders": {"equipmentId": equipment, "reason": "fresh"},
        "/api/alerts": {
            "equipmentId": equipment,
            "sensorType": "temperature",
            "alertType": "warning",
            "message": "fresh",
            "value": 1,
            "threshold": 0,
        },
    }
    for path, body in bodies.items():
        answer = stage.app.post(path, body)
        if answer.status != 201:
            verdict.fail("fresh write", f"{path}: {answer.status} {answer.text[:300]}")
            continue
        wanted = answer.headers["Sync-Message-Id"]
        try:
            stage.shore.wait_for(partial(_carries, wanted), FRESH)
        except AssertionError as error:
            verdict.fail("fresh write", f"{path}: {error}")


def _carries(message_id: str, message: Received) -> bool:
    return message_id in message.payload


def _check_workers(stage: Stage, verdict: Verdict) -> None:
    documents = stage.ask_each_worker()
    for document in documents:
        if document != documents[0]:
            verdict.fail("workers tell different tales", f"{documents[0]} and {document}")


def _keep_schedule(stage: Stage, trouble: Faults, began: float) -> None:
    lines = [
        f"{fault.began - began:8.2f} - {fault.ended - began:8.2f}  {fault.kind} {fault.detail}"
        for fault in trouble.done
    ]
    (stage.directory / "faults.txt").write_text("\n".join([f"zero is {began:.3f}", *lines]) + "\n")


def _keep_account(stage: Stage, account: Account, verdict: Verdict) -> None:
    """Write down what a person needs to find out why."""
    files = {
        "failures.txt": verdict.failures,
        "log.txt": account.log,
        "shore.txt": account.shore,
        "witness.txt": account.witness,
        "packets.txt": account.packets,
        "promises.txt": account.ledger.obligations,
        "doubts.txt": account.ledger.doubts,
        "shore-said.txt": stage.shore.said,
        "witness-said.txt": stage.witness.said,
    }
    for name, lines in files.items():
        (stage.directory / name).write_text("".join(f"{line}\n" for line in lines))
