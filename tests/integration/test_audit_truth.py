"""An audit says "equal" of equal tables only: every row aboard is here, belongs to its vessel, and nothing more is."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marshmallow import Schema, fields
from sqlalchemy import String, event, select
from sqlalchemy.orm import (
    Mapped,
    ORMExecuteState,
    Session,
    mapped_column,
    with_loader_criteria,
)

from arus.follower.audits.case import QUIET, QUIET_WHILE_PENDING, STALE
from arus.follower.audits.whole import verify_all
from arus.follower.position import Need
from arus.follower.proposals import propose
from arus.follower.requests import Patience, ask
from arus.protocol.encoding import encode
from arus.protocol.entries import Operation
from arus.protocol.messages import CatchupRequest, Verdict
from arus.protocol.times import iso, now_ms
from tests.support.coast import Base, Coast, Crew, RowSchema
from tests.support.waiting import eventually

ROWS = ("r1", "r2", "r3")


class Machine(Base):
    __tablename__ = "machine"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]
    name: Mapped[str]
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind"}  # noqa: RUF012  # SQLAlchemy's own word


class Engine(Machine):
    __mapper_args__ = {"polymorphic_identity": "engine"}  # noqa: RUF012


class Pump(Machine):
    __mapper_args__ = {"polymorphic_identity": "pump"}  # noqa: RUF012


class MachineSchema(RowSchema):
    kind = fields.String()


class Chart(Base):
    __tablename__ = "chart"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    version: Mapped[int]
    name: Mapped[str]


class ChartSchema(Schema):
    id = fields.UUID()
    version = fields.Integer()
    name = fields.String()


class UuidKeys(Coast):
    """The keys of an entity are UUIDs."""

    def start(self) -> None:
        registry = self.registry
        registry.add(Chart, "crew", topic="crew", qos=1, schema=ChartSchema(), version="version")
        super().start()


class TwoClasses(Coast):
    """Two entities are classes in one table."""

    def start(self) -> None:
        for model, entity in ((Engine, "crew"), (Pump, "equipment")):
            self.registry.add(
                model, entity, topic=entity, qos=1, schema=MachineSchema(), version="version"
            )
        super().start()


@pytest.fixture
def coast(tmp_path: Path) -> Iterator[Coast]:
    """Vessel a has two rows of crew, vessel b one."""
    with Coast(tmp_path, "a", "b") as coast:
        coast.change("a", "a1", name="Ann")
        coast.change("a", "a2", name="Al")
        coast.change("b", "b1", name="Bo")
        coast.join()
        assert coast.audit_until_equal("a").equal
        assert coast.audit_until_equal("b").equal
        yield coast


def named(verdict: Verdict, entity: str = "crew") -> set[str]:
    return set(verdict.entities[entity].rows)


def test_an_audit_tells_the_position_of_a_backlog_of_which_too_many_ranges_were_noted(
    coast: Coast, monkeypatch: pytest.MonkeyPatch
) -> None:
    coast.change("a", "pump", topic="equipment", name="Pump")
    assert coast.audit_until_equal("a").equal
    monkeypatch.setattr("arus.follower.ranges.MAX_RANGES", 2)
    ship = coast.ships["a"]
    order = ("crew", "equipment") * 3 + ("equipment",) * 2
    logged = [
        (topic, ship.log_change(topic, {"name": "new"}, row_id=f"new-{number}"))
        for number, topic in enumerate(order)
    ]
    digest = coast.digest("a")
    coast.take("system/digest", digest)  # it overtakes the changes
    for wanted in ("equipment", "crew"):
        for topic, message in logged:
            if topic == wanted:
                coast.take(topic, message)
    assert coast.vessel("a").seq < ship.seq, "numbers were dropped"
    coast.vessel("a").audit = None

    def verdict() -> Verdict | None:
        coast._hurry()
        coast.audits.step(list(coast.applier.vessels.values()))
        return coast.vessel("a").audit

    found = eventually(verdict, 5, message="a verdict")
    assert found is not None
    assert found.equal
    assert found.seq == coast.vessel("a").seq == ship.seq


def test_a_vessel_that_sends_more_digests_keeps_its_place_in_the_queue(coast: Coast) -> None:
    for vessel_id in ("b", "a", "b"):
        coast.take("system/digest", coast.digest(vessel_id))
    places = {name: coast.audits._cases[name].waits_since for name in ("a", "b")}
    assert places["b"] < places["a"]
    assert coast.audit_until_equal("b").equal


def test_a_digest_that_was_lost_in_a_backlog_is_asked_for_once_the_backlog_is_here(
    coast: Coast,
) -> None:
    vessel, case = coast.vessel("a"), coast.audits._cases["a"]
    vessel.audit = None
    case.wanted, case.pause, case.not_before = True, 600.0, time.monotonic() + 600
    coast.ships["a"].log_change("crew", {"name": "lost"})
    coast.change("a", "a3", name="Abe")
    assert not vessel.caught_up
    vessels = list(coast.applier.vessels.values())
    assert coast.audits.step(vessels) == []
    coast.exchange()
    assert vessel.caught_up
    assert [one.vessel_id for one in coast.audits.step(vessels)] == ["a"]


@pytest.mark.parametrize(("pending", "patience"), [(0, QUIET), (7, QUIET_WHILE_PENDING)])
def test_a_digest_shows_that_the_end_of_a_backlog_was_lost(
    coast: Coast, pending: int, patience: float
) -> None:
    vessel, case = coast.vessel("a"), coast.audits._cases["a"]
    vessel.online, vessel.pending = True, pending
    coast.ships["a"].log_change("crew", {"name": "lost"}, row_id="a3")
    coast.take("system/digest", coast.digest("a"))
    vessels = list(coast.applier.vessels.values())
    coast.audits.step(vessels)
    assert vessel.caught_up, "it may still come"
    case.heard_at -= patience - 1
    vessel.heard_at -= int((patience - 1) * 1000)
    coast.audits.step(vessels)
    assert vessel.caught_up, "it is on its way"
    case.heard_at -= 1
    vessel.heard_at -= 1000
    coast.audits.step(vessels)
    assert vessel.position_of("crew").wants is Need.CHANGES
    coast.exchange()
    assert coast.audit("a").equal
    assert ("crew", "a3") in coast.rows()


@pytest.mark.parametrize("pending", [0, 7])
def test_a_digest_that_a_long_backlog_has_outrun_does_not_have_its_end_asked_for(
    coast: Coast, pending: int
) -> None:
    vessel, case = coast.vessel("a"), coast.audits._cases["a"]
    coast.ships["a"].log_change("crew", {"name": "to come"}, row_id="a3")
    coast.take("system/digest", coast.digest("a"))
    case.heard_at -= max(STALE, case.pause)
    vessel.online, vessel.pending, vessel.heard_at = True, pending, now_ms()
    coast.audits.step(list(coast.applier.vessels.values()))
    assert vessel.caught_up is bool(pending), "only a vessel that is sending will send it"
    assert case.digest is None
    assert case.wanted


def test_of_a_digest_only_what_is_compared_is_kept(coast: Coast) -> None:
    digest = coast.digest("a")
    filler: dict[str, Any] = {
        "topic": "t" * 1000,
        "lastSeq": 0,
        "fields": [f"{one}" for one in range(1000)],
    }
    filler |= {
        "buckets": ["x" * 100] * 50,
        "partial": [{"fields": ["id"], "buckets": [""] * 900}],
    }
    digest["entities"] |= {f"entity {number}": {**filler, "count": 7} for number in range(100)}
    digest["entities"]["equipment"]["partial"] = filler["partial"] * 50
    digest["entities"]["crew"]["digest"] = "x" * 100_000
    coast.take("system/digest", digest)
    kept = coast.audits._cases["a"].digest
    assert kept is not None
    assert len(encode(kept)) < 10_000
    vessel = coast.vessel("a")
    vessel.audit = None
    eventually(lambda: coast.audits.step([vessel]) or vessel.audit)
    assert vessel.audit is not None
    told = vessel.audit.entities
    assert (told["crew"].equal, told["entity 0"].absent) == (True, "here")


# -- rows that belong to a vessel ----------------------------------------------------------------------


def test_a_row_that_two_vessels_send_is_named_by_the_audits_of_both(coast: Coast) -> None:
    coast.ships["b"].log_change("crew", {"name": "Bob"}, row_id="a1")
    coast.take("crew", coast.ships["b"].log[-1])
    theirs = coast.audit("b")
    assert not theirs.equal
    assert theirs.entities["crew"].held_by == {"a1": "a"}
    ours = coast.audit("a")
    assert ours.equal, "the row is here as vessel a has it"
    assert ours.entities["crew"].claimed_by == {"a1": "b"}
    assert coast.rows()["crew", "a1"] == (1, "Ann")
    assert not coast.vessel("b").positions["crew"].wants, "no repair can help"


@pytest.mark.slow
@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE crew SET name = 'ann' WHERE id = 'a1'",
        "UPDATE crew SET name = 'Ann ' WHERE id = 'a1'",
        "UPDATE crew SET version = 7 WHERE id = 'a1'",
        "UPDATE crew SET id = 'A1' WHERE id = 'a1'",
        "DELETE FROM crew WHERE id = 'a1'",
        "INSERT INTO crew (id, version, name) VALUES ('more', 1, 'Ann')",
        "INSERT INTO equipment VALUES ('a1', 1, 'Ann')",
    ],
)
def test_what_somebody_changes_here_is_named_and_repaired(coast: Coast, tampering: str) -> None:
    before = coast.rows()
    coast.execute(tampering)
    assert not coast.audit("a").equal
    assert coast.audit_until_equal("a").equal
    assert coast.rows() == before


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("rank = 'pirate'", "LookupError: 'pirate'"),
        ("name = CAST(x'ff' AS TEXT)", "OperationalError: Could not decode to UTF-8"),
        ("version = 'new'", None),
    ],
)
def test_a_value_that_the_model_cant_read_is_named_and_repaired(
    coast: Coast, caplog: pytest.LogCaptureFixture, written: str, says: str | None
) -> None:
    before = coast.rows()
    coast.execute(f"UPDATE crew SET {written} WHERE id = 'a1'")
    verdict = coast.audit("a")
    assert (verdict.equal, named(verdict)) == (False, {"a1"})
    assert not says or f"the row a1 of crew can't be read: {says}" in caplog.text
    assert coast.audit("b").equal, "it is no row of vessel b"
    # The command ashore names it too.
    found = verify_all(coast.engine.url, coast.copies, nullcontext)
    assert found["a"]["crew"] == ["a1"]
    assert coast.audit_until_equal("a").equal
    ranks = coast.connection.exec_driver_sql("SELECT DISTINCT rank FROM crew WHERE id LIKE 'a%'")
    assert ranks.scalars().all() == [None]
    assert coast.rows() == before


def test_another_form_of_the_same_text_is_another_text(coast: Coast) -> None:
    coast.change("a", "a3", name="Ren\u00e9")
    coast.execute("UPDATE crew SET name = :name WHERE id = 'a3'", name="Rene\u0301")
    verdict = coast.audit("a")
    assert (verdict.equal, named(verdict)) == (False, {"a3"})
    assert coast.audit("b").equal, "it is no row of vessel b"


def test_an_orphan_makes_every_audit_that_sees_it_say_no_and_is_swept_once(coast: Coast) -> None:
    coast.execute("INSERT INTO crew (id, version, name) VALUES ('more', 1, 'Ann')")
    for vessel_id in ("a", "b"):
        verdict = coast.audit(vessel_id)
        assert (verdict.equal, named(verdict)) == (False, {"more"})
    assert coast.audit_until_equal("a").equal
    assert coast.audit_until_equal("b").equal
    assert ("crew", "more") not in coast.rows()


def test_an_orphan_is_swept_though_the_vessel_that_was_to_sweep_it_is_gone(coast: Coast) -> None:
    coast.execute("INSERT INTO crew (id, version, name) VALUES ('more', 1, 'Ann')")
    assert not coast.audit("a").equal
    coast.status("a", online=False)
    coast.audits._shared.permit._until = 0.0  # a minute later
    assert coast.audit_until_equal("b").equal
    assert ("crew", "more") not in coast.rows()
    assert coast.audit_until_equal("a").equal


def test_a_wrong_answer_to_a_repair_deletes_no_row(coast: Coast) -> None:
    coast.execute("UPDATE crew SET name = 'else' WHERE id = 'a1'")
    assert not coast.audit("a").equal
    aboard = coast.ships["a"].rows
    forgotten = aboard.pop(("crew", "a1"))
    coast.exchange(1)
    aboard["crew", "a1"] = forgotten
    assert coast.rows()["crew", "a1"] == (1, "else")
    assert coast.audit_until_equal("a").equal
    assert coast.rows()["crew", "a1"] == (1, "Ann")


#: What another program may have written as an id: longer than the column, longer than any, not a text, no UTF-8, NUL.
STRANGE = ("'x'||hex(zeroblob(20))", "hex(zeroblob(40))", "x'6131'", "CAST(x'ff' AS TEXT)", "'a'||char(0)||'b'")  # fmt: skip


def test_orphans_with_ids_that_no_message_can_have_are_named_and_stop_no_audit(
    coast: Coast,
) -> None:
    for strange in STRANGE:
        coast.execute(f"INSERT INTO crew (id, version, name) VALUES ({strange}, 1, 'Ann')")
    assert len(named(coast.audit("b"))) == len(STRANGE)
    # Those that can be recorded are swept; a person has to delete the others.
    assert len(named(coast.audit_until_equal("a", rounds=2))) == len(STRANGE) - 1
    coast.execute("DELETE FROM crew WHERE id NOT IN ('a1', 'a2', 'b1')")
    assert coast.audit_until_equal("a").equal


def test_a_uuid_that_another_program_has_written_in_another_form_is_another_row(
    tmp_path: Path,
) -> None:
    row_id = "0b1f6a52-6a57-4c3e-9d26-0f6d0c0f3a01"
    forms = (row_id, row_id.upper(), row_id.replace("-", "").upper(), "no UUID")
    with UuidKeys(tmp_path, "a", entities=()) as coast:
        coast.change("a", row_id, name="Skagerrak")
        coast.join()
        assert coast.audit_until_equal("a").equal
        for form in forms:
            coast.execute("INSERT INTO chart VALUES (:id, 1, 'Kattegat')", id=form)
            verdict = coast.audit("a")
            assert not verdict.equal
            assert form in named(verdict)
            coast.execute("DELETE FROM chart WHERE id = :id", id=form)
        assert coast.audit_until_equal("a").equal


def test_a_row_whose_id_the_table_takes_for_that_of_another_vessels_row_is_refused(
    coast: Coast,
) -> None:
    coast.execute("ALTER TABLE crew RENAME TO before")
    coast.execute(
        "CREATE TABLE crew (id VARCHAR(36) PRIMARY KEY COLLATE NOCASE, version, name, rank)"
    )
    coast.execute("INSERT INTO crew SELECT * FROM before")
    coast.stop()
    coast.start()
    before = coast.rows()
    coast.change("b", "A1", name="pirate")
    assert coast.rows() == before
    verdict = coast.audit("b")
    assert verdict.entities["crew"].refused == {
        "A1": "the table takes the row's id for that of another row, a1"
    }
    coast.change("b", "A1", "delete")
    assert coast.rows() == before
    for vessel_id in ("a", "b"):
        assert coast.audit_until_equal(vessel_id).equal


def test_rows_without_a_version_are_received_and_equal(coast: Coast) -> None:
    for number in range(3):
        coast.ships["a"].rows["crew", f"old-{number}"] = {
            **coast.ships["a"].rows["crew", "a1"], "id": f"old-{number}", "version": 0,
        }  # fmt: skip
    assert coast.audit_until_equal("a").equal
    assert coast.rows()["crew", "old-2"] == (0, "Ann")
    coast.change("a", "old-2", name="Abe")
    assert coast.audit("a").equal


def test_rows_that_the_application_hides_are_compared_too(coast: Coast) -> None:
    def hide(state: ORMExecuteState) -> None:
        state.statement = state.statement.options(with_loader_criteria(Crew, Crew.name != "gone"))

    event.listen(Session, "do_orm_execute", hide)
    try:
        coast.change("a", "a1", name="gone")
        assert coast.audit("a").equal
        coast.execute("UPDATE crew SET version = 7 WHERE id = 'a1'")
        verdict = coast.audit("a")
    finally:
        event.remove(Session, "do_orm_execute", hide)
    assert (verdict.equal, named(verdict)) == (False, {"a1"})


def test_classes_in_one_table_are_compared_each_for_itself(tmp_path: Path) -> None:
    with TwoClasses(tmp_path, "a", "b", entities=()) as coast:
        coast.change("a", "engine", name="Engine", kind="engine")
        coast.change("b", "pump", topic="equipment", name="Pump", kind="pump")
        coast.join()
        for vessel_id in ("a", "b"):
            assert coast.audit(vessel_id).equal
        # A row belongs to one vessel, whatever it says that the row is.
        coast.change("b", "engine", topic="equipment", name="stolen", kind="pump")
        verdict = coast.audit("b")
        assert verdict.entities["equipment"].held_by == {"engine": "a"}
        coast.change("b", "engine", "delete", topic="equipment")
        assert coast.audit("a").equal
        found = coast.connection.execute(select(Machine.id, Machine.name))
        assert {row.id: row.name for row in found} == {"engine": "Engine", "pump": "Pump"}


def test_a_row_that_shows_a_proposal_is_not_called_equal(coast: Coast) -> None:
    data = {"name": "Anna"}
    propose(coast.connection, coast.copies["crew"], Operation.UPDATE, "a1", data, origin="shore")
    verdict = coast.audit("a")
    assert not verdict.equal
    assert set(verdict.entities["crew"].unapplied or {}) == {"a1"}
    assert coast.rows()["crew", "a1"] == (2, "Anna"), "nothing is repaired: the vessel will answer"


# -- entities that only one side has -------------------------------------------------------------------


def test_rows_of_an_entity_that_is_not_copied_are_not_passed_over(tmp_path: Path) -> None:
    with Coast(tmp_path, "a", entities=("crew",)) as coast:
        coast.change("a", "a1", name="Ann")
        coast.join()
        assert coast.audit_until_equal("a").equal, "the vessel has no rows of it"
        coast.ships["a"].log_change("equipment", {"name": "Pump"}, row_id="e1")
        verdict = coast.audit("a")
        assert not verdict.equal
        assert verdict.entities["equipment"].absent == "here"
        assert verdict.entities["crew"].equal


def test_an_entity_that_the_vessel_does_not_have_is_requested_no_more(tmp_path: Path) -> None:
    with Coast(tmp_path, "a") as coast:
        coast.aboard["a"] = ("crew",)
        coast.change("a", "a1", name="Ann")
        coast.join()
        assert not coast.vessel("a").caught_up, "nobody answers"
        assert coast.audit_until_equal("a").equal
        assert coast.vessel("a").caught_up
        coast.execute(
            "INSERT INTO arus_row (vessel_id, entity, row_id, version, seq, hash, bucket)"
            " VALUES ('a', 'equipment', 'e1', 1, 1, 'x', 0)"
        )
        coast.execute("INSERT INTO equipment VALUES ('e1', 1, 'Pump')")
        coast.stop()
        coast.start()
        verdict = coast.audit("a")
        assert not verdict.equal
        assert verdict.entities["equipment"].absent == "aboard"
        assert coast.vessel("a").caught_up, "the vessel can't send it"


# -- repairs -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_repair_that_does_not_help_is_not_repeated(coast: Coast) -> None:
    # A row that the follower can't take: it stays out whatever is sent.
    coast.ships["a"].log_change("crew", {"name": None}, row_id="a3")
    coast.take("crew", coast.ships["a"].log[-1])
    assert not coast.audit_until_equal("a", rounds=3).equal
    sent = coast.items
    assert not coast.audit_until_equal("a", rounds=5).equal
    assert coast.items == sent
    coast.change("a", "a3", name="Ada")
    assert coast.audit_until_equal("a").equal


def test_what_was_repaired_is_repaired_again_though_another_row_keeps_the_copy_from_being_equal(
    coast: Coast,
) -> None:
    coast.change("a", "e1", topic="equipment", name=None)  # refused
    for _ in range(2):
        coast.execute("UPDATE crew SET name = 'ann' WHERE id = 'a1'")
        verdict = coast.audit_until_equal("a", rounds=2)
        assert (named(verdict), named(verdict, "equipment")) == (set(), {"e1"})
        assert coast.rows()["crew", "a1"] == (1, "Ann")


def test_numbers_that_a_restored_vessel_gives_out_a_second_time_have_it_audited(
    coast: Coast,
) -> None:
    ship, before = coast.ships["a"], dict(coast.ships["a"].rows)
    seq, heads = ship.seq, dict(ship.heads)
    coast.change("a", "a1", name="Anna")
    coast.change("a", "lost", name="Abe")
    assert coast.audit("a").equal
    # Restored, it is ahead of what is proved here before the follower hears of it.
    ship.rows, ship.seq, ship.heads = before, seq, heads
    for number in range(5):
        ship.log_change("crew", {"name": "new"}, row_id=f"new-{number}")
    for message in ship.log[-5:]:
        coast.take("crew", message)
    vessel = coast.vessel("a")
    assert (vessel.seq, vessel.caught_up) == (ship.seq, True)
    assert ("crew", "new-0") not in coast.rows()
    coast._hurry()
    assert [one.mode for one in coast.audits.step([vessel])] == ["digest"]
    assert coast.audit_until_equal("a").equal
    assert coast.rows() == {
        key: (row["version"], row["name"])
        for one in coast.ships.values()
        for key, row in one.rows.items()
    }
    case, last = coast.audits._cases["a"], ship.log[-1]
    forged = {**last, "seq": 1, "previousSeq": 0, "version": 9}
    forged["data"] = {**last["data"], "version": 9}
    coast.take("crew", forged)
    assert not case.wanted, "one a minute at most"
    case.question_after -= 60.0
    coast.take("crew", forged)
    assert case.wanted


def requested(coast: Coast) -> dict[str, Any]:
    """The request for the rows that an audit found to differ."""
    vessel = coast.vessel("a")
    [request] = ask(vessel, now_ms(), Patience(), lambda: str(uuid4()))
    assert request.buckets
    document: dict[str, Any] = orjson.loads(encode(request))
    return document


def forge_answer(coast: Coast, request: dict[str, Any]) -> None:
    """Answer a request in the name of vessel a: it has no such rows."""
    ship = coast.ships["a"]
    told = {
        "catchupId": str(uuid4()), "requestId": request["requestId"], "vesselId": "a", "entity": "crew",
        "epoch": ship.epoch, "mode": "snapshot", "highSeq": ship.seq, "total": 0,
        "buckets": request["buckets"], "complete": False, "sinceSeq": None, "timestamp": iso(now_ms()),
    }  # fmt: skip
    coast.take("catchup/crew", {**told, "type": "catchup_begin"})
    coast.take("catchup/crew", {**told, "type": "catchup_end", "digest": "", "next": None})


def test_a_repair_that_something_else_has_ended_is_requested_again(coast: Coast) -> None:
    before = coast.rows()
    coast.execute("UPDATE crew SET name = 'ann' WHERE id = 'a1'")
    assert not coast.audit("a").equal
    requested(coast)
    # A change says that something below the position has not arrived: all after what is proved is requested.
    position = coast.vessel("a").positions["crew"]
    coast.vessel("a").retract(position)
    assert position.need is Need.CHANGES
    coast.exchange(1)
    assert coast.audit_until_equal("a", rounds=3).equal
    assert coast.rows() == before


def test_a_repair_that_could_not_begin_is_requested_later(coast: Coast) -> None:
    before = coast.rows()
    coast.execute("UPDATE crew SET name = 'ann' WHERE id = 'a1'")
    coast.take("system/digest", coast.digest("a"))
    while coast.audits._cases["a"].verification is None:
        coast.audits.step([coast.vessel("a")])
    # While the rows are compared, a status says that changes are missing.
    coast.vessel("a").session_lost()
    coast.vessel("a").audit = None
    eventually(lambda: coast.audits.step([coast.vessel("a")]) or coast.vessel("a").audit)
    assert coast.vessel("a").positions["crew"].need is Need.CHANGES
    coast.exchange(1)
    assert coast.audit_until_equal("a", rounds=3).equal
    assert coast.rows() == before


@pytest.mark.slow
def test_a_repair_that_somebody_else_has_answered_too_is_requested_again(coast: Coast) -> None:
    for number in range(20):  # so many are deleted only if a digest agrees
        coast.change("a", f"more-{number}", name="Ann")
    before = coast.rows()
    coast.execute("UPDATE crew SET name = 'ann' WHERE id LIKE 'more%'")
    assert not coast.audit("a").equal
    request = requested(coast)
    forge_answer(coast, request)
    assert coast.vessel("a").caught_up
    coast.answer(request)  # by the vessel, which has received it as well
    assert coast.audit_until_equal("a", rounds=4).equal
    assert coast.rows() == before


def left_by_a_repair(coast: Coast) -> None:
    """Have a repair leave rows over that only a digest can decide on: the vessel has lost them meanwhile."""
    for number in range(5):
        coast.change("a", f"more-{number}", name="Ann")
    coast.execute("UPDATE crew SET name = 'ann' WHERE id LIKE 'more%'")
    assert not coast.audit("a").equal
    for number in range(5):
        del coast.ships["a"].rows["crew", f"more-{number}"]
    coast.answer(requested(coast))
    assert coast.vessel("a").is_sweeping


def test_a_sweep_of_an_entity_that_the_vessel_has_no_longer_ends(coast: Coast) -> None:
    left_by_a_repair(coast)
    coast.aboard["a"] = ("equipment",)
    coast.exchange(1)
    verdict = coast.audit("a")
    assert (verdict.equal, verdict.entities["crew"].absent) == (False, "aboard")
    assert not coast.vessel("a").is_sweeping, "nothing more is requested for it"
    assert len(coast.rows()) == 8


def test_a_last_change_that_is_lost_while_a_sweep_waits_is_requested(coast: Coast) -> None:
    left_by_a_repair(coast)
    coast.ships["a"].log_change("crew", {"name": "Ada"}, row_id="last")  # the broker drops it
    coast.exchange(2)
    vessel = coast.vessel("a")
    assert vessel.is_sweeping
    vessel.look_for_lost_tail(now_ms() + 10_000, 3.0)
    coast.exchange(2)
    assert not vessel.is_sweeping
    assert coast.audit_until_equal("a").equal


def test_a_repair_whose_digest_never_comes_does_not_end_the_audits(coast: Coast) -> None:
    left_by_a_repair(coast)
    digest = coast.digest
    coast.digest = lambda vessel_id: {**digest(vessel_id), "seq": 0}  # type: ignore[method-assign]
    coast.exchange(10)
    assert coast.vessel("a").is_sweeping
    coast.digest = digest  # type: ignore[method-assign]
    eventually(
        lambda: coast.audits.step([coast.vessel("a")]) or not coast.audits._cases["a"].repairing
    )
    assert coast.audit_until_equal("a").equal


def test_a_digest_that_can_never_be_compared_does_not_end_the_audits(coast: Coast) -> None:
    before = coast.rows()
    vessel, case = coast.vessel("a"), coast.audits._cases["a"]
    coast.execute("UPDATE crew SET name = 'ann' WHERE id = 'a1'")
    false = coast.digest("a")
    for told in false["entities"].values():
        told["lastSeq"] = 2**53 - 1
    coast.take("system/digest", false)
    vessel.audit = None
    coast.status("a")
    assert not coast.audits.step([vessel]), "its changes may still arrive"
    case.heard_at -= STALE
    assert not coast.audits.step([vessel])
    coast.exchange()  # what it promises is asked for
    case.not_before = 0.0
    [request] = coast.audits.step([vessel])
    assert request.mode == "digest"
    assert coast.audit_until_equal("a").equal
    assert coast.rows() == before


def test_one_digest_is_requested_of_a_vessel_that_is_said_to_be_offline(coast: Coast) -> None:
    # Somebody may have forged that it is offline; if not, the broker keeps the request until it is back.
    vessel, case = coast.vessel("a"), coast.audits._cases["a"]
    coast.execute("UPDATE crew SET name = 'ann' WHERE id = 'a1'")
    assert not coast.audit("a").equal
    coast.answer(requested(coast))

    def digests() -> int:
        case.not_before = 0.0
        return len(coast.audits.step([vessel]))

    coast.status("a", online=False)
    assert digests() == 0, "the repair has ended"
    assert [digests() for _ in range(4)] == [1, 0, 0, 0]
    coast.status("a")
    assert digests() == 1
    coast.status("a", online=False)
    assert [digests() for _ in range(4)] == [1, 0, 0, 0]
    coast.take("system/digest", coast.digest("a"))
    assert coast.audit_until_equal("a").equal


STEP = st.one_of(
    st.tuples(st.just("change"), st.sampled_from("ab"), st.sampled_from(ROWS)),
    st.tuples(st.just("delete"), st.sampled_from("ab"), st.sampled_from(ROWS)),
    st.tuples(st.just("lose"), st.sampled_from("ab"), st.sampled_from(ROWS)),
    st.tuples(
        st.just("tamper"),
        st.sampled_from([
            "UPDATE crew SET name = 'x' WHERE id = :id",
            "UPDATE crew SET version = version + 1 WHERE id = :id",
            "DELETE FROM crew WHERE id = :id",
            "INSERT INTO crew (id, version, name) VALUES (:id, 1, 'y') ON CONFLICT DO NOTHING",
        ]),
        st.sampled_from(ROWS),
    ),
    st.tuples(st.just("audit"), st.sampled_from("ab"), st.none()),
    st.tuples(st.just("repair"), st.sampled_from("ab"), st.none()),
)  # fmt: skip


def play(coast: Coast, step: tuple[Any, ...], number: int) -> None:
    kind, who, row_id = step
    if kind == "change":
        coast.change(who, row_id, name=f"{who}{number}")
    elif kind == "delete" and ("crew", row_id) in coast.ships[who].rows:
        coast.change(who, row_id, "delete")
    elif kind == "lose":  # it is changed aboard past the log
        coast.ships[who].rows.pop(("crew", row_id), None)
    elif kind == "tamper":
        coast.execute(who, id=row_id)
    elif kind == "audit":
        check(coast, who, coast.audit(who))
    elif kind == "repair":
        check(coast, who, coast.audit_until_equal(who, rounds=2))


def check(coast: Coast, vessel_id: str, verdict: Verdict) -> None:
    """A verdict that says equal is true."""
    if not verdict.equal:
        return
    aboard = {
        key: (row["version"], row["name"]) for key, row in coast.ships[vessel_id].rows.items()
    }
    belongs = {
        (row.entity, row.row_id): row.vessel_id
        for row in coast.connection.exec_driver_sql(
            "SELECT entity, row_id, vessel_id FROM arus_row"
            " WHERE owner = '' AND version >= 0 AND NOT deleted"
        )
    }
    there = coast.rows()
    assert set(there) <= set(belongs), "a row here belongs to nobody"
    here = {key: row for key, row in there.items() if belongs[key] == vessel_id}
    assert here == aboard


@pytest.mark.slow
@settings(deadline=None, max_examples=25, print_blob=True, suppress_health_check=list(HealthCheck))
@given(st.lists(STEP, max_size=14))
def test_equal_is_never_said_of_tables_that_differ(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as path, Coast(Path(path), "a", "b") as coast:
        coast.change("a", "a-first", name="Ann")
        coast.change("b", "b-first", name="Bo")
        coast.join()
        for number, step in enumerate(steps):
            play(coast, step, number)
        for vessel_id in ("a", "b"):
            check(coast, vessel_id, coast.audit_until_equal(vessel_id, rounds=3))


def test_a_vessel_that_was_forgotten_while_its_rows_were_compared_is_not_equal_when_it_returns(
    tmp_path: Path,
) -> None:
    with Coast(tmp_path, "a") as coast:
        # All it has arrives live: nothing is requested of it, so it has proved nothing.
        coast.status("a")
        coast.change("a", "a1", name="Ann")
        coast.take("system/digest", coast.digest("a"))

        def step() -> list[CatchupRequest]:
            coast._hurry()
            return coast.audits.step(list(coast.applier.vessels.values()))

        while (verification := coast.audits._cases["a"].verification) is None:
            for request in step():
                coast.answer(orjson.loads(encode(request)))
        assert coast.applier.forget(["a"]) == ["a"]
        coast.audits.forget("a")
        assert coast.rows() == {}
        coast.status("a")
        eventually(lambda: not verification.is_running())
        orphans = coast.audits._shared.orphans
        while orphans.since(0) is None:
            orphans.step()
        step()
        assert coast.vessel("a").audit is None


def test_the_rows_that_an_invented_vessel_had_sent_first_are_those_of_the_real_one_once_it_is_forgotten(
    tmp_path: Path,
) -> None:
    with Coast(tmp_path, "ghost", "b", "c") as coast:
        coast.change("ghost", "b1", name="Boo")
        coast.change("b", "b1", name="Bo")
        coast.change("c", "b1", name="Che")
        coast.join("b", "c")
        assert not coast.audit("b").equal
        assert coast.applier.forget(["ghost"]) == ["ghost"]
        coast.audits.forget("ghost")
        del coast.ships["ghost"]
        assert coast.audit_until_equal("b").equal
        assert coast.rows() == {("crew", "b1"): (1, "Bo")}
        assert coast.audit("c").entities["crew"].held_by == {"b1": "b"}
