"""How long the log remembers, and what it does when it remembers less than the broker."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from arus.outbox.retention import STEP
from arus.protocol.times import now_ms
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.vessel import StartVessel, Vessel
from tests.support.waiting import eventually

_DAY = 86_400_000


@pytest.mark.slow
def test_delivered_changes_leave_the_log_when_their_time_has_come(
    mosquitto: Mosquitto, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(mosquitto.url, MQTT_RETENTION_DAYS=7)
    vessel.wait_connected()
    vessel.commit(STEP + 100, committed_at=now_ms() - 8 * _DAY)
    recent = vessel.commit(3)
    vessel.wait_drained()
    vessel.stop()
    vessel = start_vessel(mosquitto.url, MQTT_RETENTION_DAYS=7)
    eventually(
        lambda: vessel.query("SELECT COUNT(*) FROM arus_change") == [(3,)],
        message="what is older than a week is gone",
    )
    assert [m for (m,) in vessel.query("SELECT message_id FROM arus_change ORDER BY id")] == recent


@pytest.mark.slow
def test_what_is_not_delivered_stays_however_old_it_is(
    mosquitto: Mosquitto, start_vessel: StartVessel
) -> None:
    mosquitto.stop()
    vessel = start_vessel(mosquitto.url, MQTT_RETENTION_DAYS=0)
    old = vessel.commit(5, committed_at=now_ms() - 100 * _DAY)
    eventually(lambda: vessel.status().head_seq == 5, message="they are numbered")
    vessel.stop()
    vessel = start_vessel(mosquitto.url, MQTT_RETENTION_DAYS=0)
    eventually(lambda: vessel.status().reconnect_attempts > 3, message="it has looked at the log")
    assert [m for (m,) in vessel.query("SELECT message_id FROM arus_change ORDER BY id")] == old


def test_quarantined_changes_are_bounded_too(
    mosquitto: Mosquitto, start_vessel: StartVessel
) -> None:
    vessel = start_vessel(mosquitto.url, MQTT_MAX_QUEUE_SIZE=4)
    vessel.wait_connected()
    ids = vessel.commit(10)
    vessel.wait_drained()
    vessel.stop()
    vessel.query_write("UPDATE arus_change SET outcome = 'quarantined', reason = 'for a test'")
    vessel = start_vessel(mosquitto.url, MQTT_MAX_QUEUE_SIZE=4)
    eventually(lambda: vessel.status().quarantined == 4, message="the newest four are kept")
    kept = vessel.query(
        "SELECT message_id FROM arus_change WHERE outcome = 'quarantined' ORDER BY id"
    )
    assert [message_id for (message_id,) in kept] == ids[-4:]


@pytest.mark.slow
def test_a_restored_backup_begins_a_new_epoch_loudly(
    mosquitto: Mosquitto,
    start_vessel: StartVessel,
    start_subscriber: Any,
    migrated_database_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sqlite = make_url(migrated_database_url).get_backend_name() == "sqlite"
    restore = _sqlite_backup if sqlite else _postgres_rewind
    subscriber: Subscriber = start_subscriber("vessel/sync/#")
    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    vessel.commit(5)
    vessel.wait_drained()
    vessel.stop()
    put_back = restore(vessel, migrated_database_url, tmp_path)
    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    vessel.commit(5)
    vessel.wait_drained()
    epoch = vessel.status().epoch
    assert "new epoch" not in caplog.text
    vessel.stop()

    put_back()
    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    fresh = vessel.commit(2)
    vessel.wait_drained()
    assert "restored from an older copy" in caplog.text
    assert vessel.status().epoch != epoch
    subscriber.wait_for(lambda m: m.json.get("messageId") == fresh[-1])
    last = subscriber.changes()[-2:]
    assert [change["messageId"] for change in last] == fresh
    assert {change["epoch"] for change in last} == {vessel.status().epoch}
    assert last[0]["previousSeq"] == 0
    assert last[1]["previousSeq"] == last[0]["seq"]


def _sqlite_backup(_vessel: Vessel, database_url: str, tmp_path: Path) -> Callable[[], None]:
    database = Path(str(make_url(database_url).database))
    backup = tmp_path / "backup"
    backup.mkdir()
    for file in database.parent.glob(f"{database.name}*"):
        if file.is_file():
            shutil.copy(file, backup)

    def put_back() -> None:
        for file in database.parent.glob(f"{database.name}-*al"):
            file.unlink()
        for file in backup.iterdir():
            shutil.copy(file, database.parent)

    return put_back


def _postgres_rewind(vessel: Vessel, _database_url: str, _tmp_path: Path) -> Callable[[], None]:
    def put_back() -> None:
        for statement in (
            "DELETE FROM arus_change WHERE seq > 5",
            "UPDATE arus_session SET head_seq = 5",
            "UPDATE arus_lane SET head_seq = 5, sent_seq = 5, received_seq = 5, acked_seq = 5",
        ):
            with vessel.engine.connect() as connection:
                connection.exec_driver_sql(statement)

    return put_back
