"""A vessel on a disk that gets full, in a mount namespace: what happens, as one JSON object.

`python -m tests.support.full_disk DIRECTORY JOURNAL_MODE reserve`: started by `run`, which gives it a name space
of its own, so that no root is needed and nothing stays mounted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import MetaData

from arus.database import open_engine
from arus.errors import DiskFullError
from arus.ops.doctor.disk import explain_full_disk
from arus.outbox.reserve import DiskReserve, kept, reserve_of
from arus.outbox.tables import define
from tests.support.gunicorn_app import ROOT, clean_environment
from tests.support.mosquitto import Mosquitto
from tests.support.namespaces import unshare
from tests.support.subscriber import Subscriber
from tests.support.vessel import Vessel
from tests.support.waiting import eventually

#: Bytes that a change's data has.
WEIGHT = 2_000
#: Commits that have to fail, one after the other, until the disk counts as full.
ENOUGH = 10


def run(directory: Path, journal_mode: str, *, reserve: bool = True) -> dict[str, Any]:
    """Run it and return what it has found out."""
    argv = [
        sys.executable,
        "-m",
        __name__,
        str(directory),
        journal_mode,
        "reserve" if reserve else "",
    ]
    done = subprocess.run(
        [*unshare("--mount"), *argv],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def mount(disk: Path, size: str, *options: str) -> None:
    """Mount a small disk, or change its size."""
    words = ",".join([*options, f"size={size}"])
    subprocess.run(["mount", "-t", "tmpfs", "-o", words, "tmpfs", disk], check=True)


def fill(vessel: Vessel) -> list[str]:
    """Commit until the disk is full; the ids of the changes that were committed, by turns on both topics."""
    committed: list[str] = []
    failed = 0
    while failed < ENOUGH:
        topic = "alerts" if len(committed) % 2 else "work_orders"
        try:
            row = str(len(committed))
            committed += vessel.commit(topic=topic, data=f'{{"x":"{"y" * WEIGHT}"}}', row_id=row)
            failed = 0
        except DiskFullError:
            failed += 1
    return committed


def make_log(url: str, journal_mode: str) -> None:
    """Make an empty change log."""
    engine = open_engine(url)
    metadata = MetaData()
    define(metadata)
    metadata.create_all(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA journal_mode = {journal_mode}")
    engine.dispose()


def main() -> None:
    """Fill the disk while the broker is away, bring the broker back, and look what happens."""
    directory, journal_mode, with_reserve = sys.argv[1:]
    disk = Path(directory, "disk")
    disk.mkdir()
    mount(disk, "4m")
    url = f"sqlite:///{disk}/arus.sqlite"
    make_log(url, journal_mode)
    file = reserve_of(disk / "arus.sqlite")
    reserve = DiskReserve(disk / "arus.sqlite" if with_reserve else None)
    broker = Mosquitto(Path(directory))
    subscriber = Subscriber(broker.port, "vessel/sync/#", client_id="shore")
    with broker, subscriber:  # it subscribes, and is away until the end
        subscriber.stop()
        broker.stop()  # it saves the session, which a killed one may not have done yet
    with Vessel(url, MQTT_BROKER_URL=broker.url).with_reserve(reserve) as vessel:
        eventually(
            lambda: vessel.status().owner and (kept(disk / "arus.sqlite") or not with_reserve),
            message="owner and reserve",
        )
        wanted = file.stat().st_size if with_reserve else 1
        found: dict[str, Any] = {"committed": fill(vessel)}
        # While the owner writes, the space of its reserve is free.
        found["told"] = eventually(
            lambda: explain_full_disk(disk / "arus.sqlite"), message="it is told"
        )
        with broker, subscriber:
            with suppress(AssertionError):
                vessel.wait_drained(20 if with_reserve else 6)
            found["depth"] = vessel.status().depth
            found["owned"] = vessel.status().owner is not None
            found["kept"] = file.stat().st_size / wanted if with_reserve else 0
            mount(disk, "30m", "remount")
            found["committed"] += vessel.commit()
            eventually(lambda: not reserve.is_used, message="the disk has room again")
            vessel.wait_drained()
            found["told later"] = explain_full_disk(disk / "arus.sqlite")
            subscriber.wait_until(
                lambda: len(subscriber.changes()) >= len(found["committed"]), 20, "last change"
            )
            found["received"] = [
                (change["entity"], change["messageId"]) for change in subscriber.changes()
            ]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
