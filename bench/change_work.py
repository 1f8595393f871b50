"""Single changes of an idle ship, in a process of their own; for `bench.idle_change`.

`python bench/change_work.py BROKER_URL CHANGES`, with the checkout to measure in PYTHONPATH, relays that many changes,
one after the other, and prints the milliseconds of processor time that the owner's thread has used for each.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import MetaData, create_engine

from arus.outbox.tables import define
from tests.support.vessel import Vessel

#: Changes before the measurement: statements are prepared, and caches warm up.
FIRST = 10
#: Seconds between two changes: longer than acknowledgements are batched, so that a change never shares a transaction with another.
PAUSE = 0.03


def main() -> None:
    """Relay the changes."""
    broker_url, changes = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="arus-bench-") as name:
        url = f"sqlite:///{Path(name, 'arus.sqlite')}"
        engine = create_engine(url)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        metadata = MetaData()
        define(metadata)
        metadata.create_all(engine)
        engine.dispose()
        with Vessel(url, MQTT_BROKER_URL=broker_url) as vessel:
            vessel.wait_connected(120)
            _relay(vessel, FIRST)
            clock = _clock_of_owner(vessel)
            before = time.clock_gettime(clock)
            _relay(vessel, changes)
            print((time.clock_gettime(clock) - before) * 1000 / changes)


def _relay(vessel: Vessel, changes: int) -> None:
    for _ in range(changes):
        known = len(vessel.heard("message_published"))
        vessel.commit()
        vessel.wait_signal("message_published", known + 1, timeout=60)
        time.sleep(PAUSE)


def _clock_of_owner(vessel: Vessel) -> int:
    thread = vessel.owner._thread
    assert thread is not None, "the owner was started"
    assert thread.ident is not None, "the owner was started"
    return time.pthread_getcpuclockid(thread.ident)


if __name__ == "__main__":
    main()
