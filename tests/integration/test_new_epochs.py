"""When a number above the log's head begins a new epoch: restored databases, and whoever pretends that it was restored."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Connection, text

from arus.inbound.watermark_lines import WatermarkLines
from arus.mqtt.events import Received
from arus.ops.doctor.owner import check_epoch
from arus.outbox import sql
from arus.outbox.log import ChangeLog
from arus.outbox.status import SyncStatus, read_status
from arus.protocol.frames import Compressor, Dictionary, is_frame
from arus.protocol.times import now_ms
from arus.relay.epochs import PERIOD
from arus.relay.leadership import open_lock
from arus.relay.restored import RestoreCheck
from tests.support.mosquitto import Mosquitto
from tests.support.ship_messages import dictionary
from tests.support.subscriber import Subscriber
from tests.support.vessel import StartVessel, Vessel
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

CREW = "vessel/sync/crew"
MAINTENANCE = "vessel/sync/maintenance"
STATUS = "vessel/sync/system/status"

only_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"])


class Look:
    """Look-backs of one owner, with what each of them reads."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.log = ChangeLog(connection, vessel_id="ship-1")
        self.check = RestoreCheck(
            self.log,
            "vessel/sync",
            ["crew", "maintenance"],
            {"crew": "crew", "maintenance": "maintenance_schedules"},
        )

    def change(self, seq: int = 100, **changes: Any) -> dict[str, Any]:
        return {
            "type": "data_change",
            "entity": "crew",
            "operation": "create",
            "data": {"id": "1", "version": 1},
            "timestamp": "2026-11-22T08:00:00.000Z",
            "messageId": "1795334400000_abc123def",
            "vesselId": "ship-1",
            "epoch": self.log.epoch,
            "seq": seq,
            "previousSeq": 0,
            "version": 1,
            **changes,
        }

    def status(self, seq: int | None = 100, **changes: Any) -> dict[str, Any]:
        told = {"status": "offline", "vesselId": "ship-1", "timestamp": "", "generation": 1}
        return {**told, "epoch": self.log.epoch, "seq": seq, **changes}

    def reads(self, *messages: tuple[str, Any], retain: bool = True) -> str | None:
        """Read these messages in one look-back; return why the connection may not open."""
        for topic, message in messages:
            self.check.take(Received(topic, json.dumps(message).encode(), 0, 0, retain=retain))
        return self.check.compare().reason

    def told(self) -> str | None:
        return self.read_status().told_of_restore(now_ms())

    def read_status(self) -> SyncStatus:
        return read_status(self.connection, enabled=True, owned=True, max_queue_size=10)


@pytest.fixture
def look(log: Connection) -> Look:
    return Look(log)


def test_a_number_above_the_head_begins_an_epoch_when_the_next_connection_reads_it_too(
    look: Look,
) -> None:
    epoch = look.log.epoch
    proof = CREW, look.change()
    doubt = look.reads(proof)
    assert doubt is not None
    assert "the broker holds change 100 of this vessel on vessel/sync/crew" in doubt
    assert (look.log.epoch, look.told()) == (epoch, None)
    assert look.reads(proof) == "a new epoch needs a new session"
    assert look.log.epoch != epoch
    (finding,) = check_epoch(look.read_status())
    assert "a new epoch has begun" in finding.says
    assert finding.fix is not None
    assert look.reads(proof) is None, "it is of the epoch before"


@pytest.mark.parametrize(
    ("topic", "wrong"),
    [
        (CREW, {"vesselId": "ship-2"}),
        (CREW, {"epoch": "another"}),
        (CREW, {"entity": "maintenance_schedules"}),
        (MAINTENANCE, {}),
        (MAINTENANCE, {"entity": "maintenance"}),
        (CREW, {"type": "catchup", "catchupId": "1", "sequence": 0, "total": 1}),
        (CREW, {"seq": 2**53}),
        (CREW, {"seq": 100.5}),
        (CREW, {"data": None, "messageId": ""}),
        (STATUS, {}),
        ("vessel/sync/equipment", {"entity": "equipment"}),
    ],
)
def test_a_message_of_another_vessel_epoch_topic_or_form_proves_nothing(
    look: Look, topic: str, wrong: dict[str, Any]
) -> None:
    for _ in range(3):
        assert look.reads((topic, look.change(**wrong))) is None


def test_a_status_proves_it_too_and_one_of_another_epoch_does_not(look: Look) -> None:
    assert look.reads((STATUS, look.status(vesselId="ship-2"))) is None
    assert look.reads((STATUS, look.status(epoch="another"))) is None
    assert look.reads((STATUS, look.status(epoch=None, seq=None))) is None
    assert look.reads((STATUS, look.status())) is not None


def test_changes_that_are_numbered_while_there_is_no_connection_hide_no_proof(look: Look) -> None:
    look.log.head_seq = 200
    assert look.reads((STATUS, look.status())) is None
    assert look.reads((CREW, look.change())) is not None


def test_what_is_published_during_a_look_back_and_not_retained_proves_nothing(look: Look) -> None:
    assert look.reads((CREW, look.change()), retain=False) is None


def test_a_number_that_the_next_connection_does_not_read_begins_nothing(look: Look) -> None:
    epoch = look.log.epoch
    for _ in range(3):
        assert look.reads((CREW, look.change())) is not None
        assert look.reads() is None
    assert (look.log.epoch, look.told()) == (epoch, None)


def test_forged_numbers_begin_one_epoch_a_day_and_a_person_is_told_of_each(
    look: Look, caplog: pytest.LogCaptureFixture
) -> None:
    def proof() -> tuple[str, Any]:
        return CREW, look.change()

    look.reads(proof())
    look.reads(proof())
    epoch = look.log.epoch
    for seq in (100, 100, 100, 2**53 - 1):
        assert look.reads((CREW, look.change(seq))) is None, "it goes on under its numbers"
    assert look.log.epoch == epoch
    lines = [line for line in caplog.messages if "less than a day ago" in line]
    assert len(lines) == 2, "one for each number"
    status = look.read_status()
    assert str(2**53 - 1) in (status.told_of_restore(now_ms()) or "")
    (finding,) = check_epoch(status)
    assert "flask sync new-epoch" in (finding.fix or "")
    assert status.told_of_restore(now_ms() + PERIOD) is None
    # A day later the next may.
    look.connection.execute(text(f"UPDATE arus_session SET claimed_at = claimed_at - {PERIOD}"))
    look.connection.commit()
    assert look.reads(proof()) is not None
    look.reads(proof())
    assert look.log.epoch != epoch


def keep(look: Look, kept: Dictionary) -> None:
    """Save a dictionary in the log."""
    row = {"id": kept.id, "content": kept.content, "created_seq": 0}
    with look.log.fenced_transaction() as fenced:
        fenced.execute(sql.dictionaries.ADD, {**row, "created_at": 0, "checked_at": 0})


def test_a_status_that_names_a_dictionary_that_the_log_lacks_proves_it_when_it_is_read_twice(
    look: Look,
) -> None:
    epoch = look.log.epoch
    named = STATUS, look.status(seq=0, dictionary=dictionary().id)
    doubt = look.reads(named)
    assert doubt is not None
    assert f"names dictionary {dictionary().id}, which the log does not have" in doubt
    assert look.reads() is None, "the next connection does not read it"
    assert look.log.epoch == epoch
    assert look.reads(named) is not None
    assert look.reads(named) == "a new epoch needs a new session"
    epoch = look.log.epoch
    again = STATUS, look.status(seq=0, dictionary=dictionary().id)
    assert look.reads(again) is None, "one a day"
    assert look.log.epoch == epoch
    assert "names dictionary" in (look.told() or "")


def test_a_status_that_names_a_dictionary_of_the_log_or_one_that_was_deleted_proves_nothing(
    look: Look,
) -> None:
    named = STATUS, look.status(seq=5, dictionary=dictionary().id)
    look.log.head_seq = 100
    look.connection.execute(text("UPDATE arus_session SET pruned_seq = 6"))
    look.connection.commit()
    assert look.reads(named) is None, "a last will: it was deleted with all changes of its time"
    look.connection.execute(text("UPDATE arus_session SET pruned_seq = 5"))
    look.connection.commit()
    assert look.reads(named) is not None
    keep(look, dictionary())
    assert look.reads(named) is None


def test_a_retained_frame_is_read_with_the_dictionaries_of_the_log(look: Look) -> None:
    def reads() -> str | None:
        payload = json.dumps(look.change()).encode()
        frame = Compressor(dictionary()).compress(payload)
        assert is_frame(frame)
        look.check.take(Received(CREW, frame, 0, 0, retain=True))
        return look.check.compare().reason

    assert reads() is None, "it can't be read"
    keep(look, dictionary())
    assert "the broker holds change 100" in (reads() or "")
    assert reads() == "a new epoch needs a new session"


# -- with a broker -----------------------------------------------------------------------------------


def forge(mosquitto: Mosquitto, vessel: Vessel, seq: int = 500) -> None:
    """Retain a change of the vessel's that it has never made."""
    status = vessel.status()
    change = {
        "type": "data_change", "entity": "alerts", "operation": "create",
        "data": {"id": "1", "version": 1}, "timestamp": "2026-11-22T08:00:00.000Z",
        "messageId": "1795334400000_abc123def", "vesselId": "ship-1", "epoch": status.epoch,
        "seq": seq, "previousSeq": 0, "version": 1,
    }  # fmt: skip
    mosquitto.publish("vessel/sync/alerts", json.dumps(change), "-q", "1", "-r")


@only_sqlite
def test_a_forged_retained_number_that_goes_away_begins_nothing_and_nothing_is_sent_meanwhile(
    mosquitto: Mosquitto,
    start_vessel: StartVessel,
    start_subscriber: Callable[..., Subscriber],
) -> None:
    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    vessel.commit(5)
    vessel.wait_drained()
    vessel.stop()
    forge(mosquitto, vessel)
    epoch = vessel.status().epoch
    subscriber = start_subscriber("vessel/sync/work_orders", STATUS)
    vessel = start_vessel(mosquitto.url, MQTT_RECONNECT_PERIOD="3")
    (later,) = vessel.commit()
    eventually(lambda: "reading it again" in (vessel.status().reason or ""))
    assert vessel.status().depth == 1
    mosquitto.clear("vessel/sync/alerts")
    vessel.wait_connected()
    vessel.wait_drained()
    assert vessel.status().epoch == epoch
    assert vessel.status().reason_of(now_ms()) is None
    subscriber.wait_for(lambda m: m.json.get("messageId") == later)
    live = [message.json for message in subscriber.messages if not message.retain]
    assert [body["status"] for body in live if "status" in body] == ["online"], "not even a will"


@only_sqlite
def test_a_forged_number_makes_followers_fetch_everything_once_a_day_at_most(
    mosquitto: Mosquitto, start_vessel: StartVessel, caplog: pytest.LogCaptureFixture
) -> None:
    epochs = []
    for _ in range(4):
        vessel = start_vessel(mosquitto.url)
        vessel.wait_connected()
        vessel.commit()
        vessel.wait_drained()
        epochs.append(vessel.status().epoch)
        vessel.stop()
        forge(mosquitto, vessel)
    assert len(set(epochs)) == 2
    assert epochs[1:] == epochs[1:2] * 3
    assert caplog.text.count("A new epoch begins") == 1
    assert "less than a day ago" in (vessel.status().epoch_note or "")


@only_sqlite
def test_a_restored_vessel_publishes_nothing_under_the_numbers_that_it_has_used_before(
    mosquitto: Mosquitto,
    start_vessel: StartVessel,
    start_subscriber: Callable[..., Subscriber],
) -> None:
    vessel = start_vessel(mosquitto.url)
    vessel.wait_connected()
    vessel.commit(5)
    vessel.wait_drained()
    epoch = vessel.status().epoch
    vessel.stop()
    # As a copy of the database that was made after the second change.
    vessel.query_write("DELETE FROM arus_change WHERE seq > 2")
    vessel.query_write("UPDATE arus_session SET head_seq = 2")
    vessel.query_write(
        "UPDATE arus_lane SET head_seq = 2, sent_seq = 2, received_seq = 2, acked_seq = 2 WHERE head_seq > 2"
    )
    subscriber = start_subscriber("vessel/sync/#")
    subscriber.wait_for(lambda m: m.retain and m.json.get("status") == "offline")
    vessel = start_vessel(mosquitto.url)
    (fresh,) = vessel.commit()
    subscriber.wait_for(lambda m: m.json.get("messageId") == fresh)
    live = [message.json for message in subscriber.messages if not message.retain]
    assert vessel.status().epoch != epoch
    assert {body["epoch"] for body in live} == {vessel.status().epoch}


# -- by hand -----------------------------------------------------------------------------------------


def test_a_person_begins_an_epoch_when_no_server_runs(app: Flask) -> None:
    sync = app.extensions["arus"]
    run = app.test_cli_runner().invoke
    assert run(args=["sync", "new-epoch", "--yes"]).exit_code == 0
    before = sync.status().epoch
    assert before
    other, _ = open_lock(sync.engine.url)
    with other.hold():
        refused = run(args=["sync", "new-epoch", "--yes"])
    assert refused.exit_code == 1
    assert "stop the server first" in refused.output
    assert run(args=["sync", "new-epoch"], input="n\n").exit_code == 1
    assert sync.status().epoch == before
    done = run(args=["sync", "new-epoch", "--yes"])
    assert done.exit_code == 0, done.output
    assert sync.status().epoch in done.output
    assert sync.status().epoch != before


# -- what is said about watermarks -------------------------------------------------------------------


def test_lines_about_watermarks_are_bounded_and_no_removal_goes_unmentioned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    lines = WatermarkLines(clock=lambda: now)
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            lines.refused("shore", f"refused {number}")
            lines.removed(f"f{number}")
            lines.write()
    assert len(caplog.messages) == 20
    assert "f9;" in caplog.messages[-1] or "f9" in caplog.text
    caplog.clear()
    lines.write()
    assert not caplog.messages
    now = 60.0
    lines.write()
    (line,) = caplog.messages
    assert "f10, f11" in line
    assert "f109 and 890 more" in line
