"""What a follower believes: one vessel's messages do no harm to another's rows, and no lie lasts."""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import Schema, fields
from sqlalchemy import String, func, text, true
from sqlalchemy.orm import Mapped, mapped_column

from arus.errors import RefusedMessageError
from arus.follower.outcome import REFUSED
from arus.follower.row_changes import MAX_FOREIGN_KEPT
from arus.follower.rows import Copy
from arus.follower.vessels import MAX_LEAP
from arus.protocol.times import iso, now_ms
from arus.registry import Registry
from tests.support.ship_model import ShipModel

from .test_follower_properties import FIELDS, STEP, Base, Sea, Shore, play

HUGE = 2**53 - 1
#: The row that lies are told of.
LIE = "lie"


class Fleet:
    """Vessels and one follower of them all; what is sent arrives at once, and what is asked is answered."""

    def __init__(self, *names: str) -> None:
        self.shore = Shore()
        self.ships = {name: ShipModel(name) for name in names}

    def change(
        self, vessel_id: str, row_id: str, operation: str | None = None, **row: Any
    ) -> dict[str, Any]:
        """Have a vessel change, create or delete a row of crew."""
        message = self.ships[vessel_id].log_change("crew", row, operation, row_id)
        self.shore.take(("crew", message))
        return message

    def settle(self, rounds: int = 8) -> None:
        """Have the vessels tell their heads and answer what is asked."""
        for _ in range(rounds):
            for ship in self.ships.values():
                self.shore.take(("system/status", ship.status_document()))
            for request in self.shore.ask():
                ship = self.ships[request["vesselId"]]
                if request.get("mode") == "digest":
                    self.shore.take(("system/digest", ship.digest_document(FIELDS)))
                    continue
                for topic, messages in ship.answers_to(request):
                    if topic in {"crew", "equipment"}:
                        self.shore.take(*[(f"catchup/{topic}", message) for message in messages])

    def crew(self) -> dict[str, tuple[int, str]]:
        return {row_id: row for (_, row_id), row in self.shore.rows().items()}

    def without_the_lie(self) -> dict[str, tuple[int, str]]:
        """The rows but for the one that a lie was told of, which stands until the next audit."""
        return {row_id: told for row_id, told in self.crew().items() if row_id != LIE}

    def aboard(self, name: str) -> dict[str, tuple[int, str]]:
        rows = self.ships[name].rows.items()
        return {row_id: (row["version"], row["name"]) for (_, row_id), row in rows}

    def counted(self, name: str) -> int:
        value = self.shore.connection.execute(
            text("SELECT sum(value) FROM arus_counter WHERE name = :name"), {"name": name}
        ).scalar()
        return int(value or 0)


@pytest.fixture
def fleet() -> Fleet:
    """Vessel a has two rows, vessel b one."""
    fleet = Fleet("a", "b")
    fleet.change("a", "a1", name="Ann")
    fleet.change("a", "a2", name="Al")
    fleet.change("b", "b1", name="Bo")
    fleet.settle()
    return fleet


def row(row_id: str, version: int = 50, **told: Any) -> dict[str, Any]:
    return {**told, "id": row_id, "version": version, "name": "taken"}


# -- whose row it is -----------------------------------------------------------------------------------


def forged(ship: ShipModel, operation: str, row_id: str, **told: Any) -> dict[str, Any]:
    """A vessel's well-formed change of a row, whoever's that is."""
    ship.seq += 1
    message = {
        "type": "data_change", "entity": "crew", "operation": operation, "data": row(row_id),
        "timestamp": iso(now_ms()), "messageId": "1_a", "vesselId": ship.vessel_id,
        "epoch": ship.epoch, "seq": ship.seq, "previousSeq": ship.heads.get("crew", 0), "version": 50,
        **told,
    }  # fmt: skip
    ship.heads["crew"] = max(message["seq"], ship.heads.get("crew", 0))
    return message


@pytest.mark.parametrize("operation", ["create", "update", "delete"])
def test_a_vessels_change_does_nothing_to_another_vessels_row(
    fleet: Fleet, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = fleet.crew()
    fleet.shore.take(("crew", forged(fleet.ships["b"], operation, "a1")))
    assert fleet.crew() == before
    assert fleet.counted(REFUSED) == 1
    assert "refused 1 changes by b of rows of crew that belong to a: a1" in caplog.text
    (reason,) = fleet.shore.connection.execute(text("SELECT reason FROM arus_parked")).scalars()
    assert reason == "the row a1 of crew belongs to a"
    # It counts as received: what comes after it follows without a gap, and nothing is asked for.
    fleet.change("b", "b2", name="Bea")
    assert fleet.shore.ask() == []
    fleet.change("a", "a1", name="Anna")
    assert fleet.crew()["a1"] == (2, "Anna")


@pytest.mark.parametrize("mode", ["log", "snapshot", "nothing that was asked for"])
@pytest.mark.parametrize("operation", ["create", "delete"])
def test_an_item_of_a_catchup_does_nothing_to_another_vessels_row(
    fleet: Fleet, operation: str, mode: str
) -> None:
    before, ship = fleet.crew(), fleet.ships["b"]
    fleet.shore.take(("crew", ship.log_change("crew", {"name": "lost"}, row_id="b2")))
    if mode != "nothing that was asked for":
        ship.log_change("crew", {"name": "lost"}, row_id="b3")
        fleet.change("b", "b4", name="beyond the gap")
        if mode == "snapshot":
            ship.prune()
    item = forged(ship, operation, "a1")
    ship.log.append(item)
    if mode == "snapshot" and operation == "create":
        ship.rows["crew", "a1"] = row("a1", updatedAt=iso(now_ms()))
    requests = fleet.shore.ask() or [{"entity": "crew", "requestId": None}]
    for topic, messages in ship.answers_to(requests[0]):
        fleet.shore.take(*[(f"catchup/{topic}", message) for message in messages])
    assert {key: fleet.crew()[key] for key in before} == before
    assert fleet.crew()["a1"] == before["a1"]


def test_a_row_that_its_vessel_has_deleted_is_not_another_vessels_either(fleet: Fleet) -> None:
    fleet.change("a", "a1", operation="delete")
    fleet.shore.take(("crew", forged(fleet.ships["b"], "create", "a1")))
    assert "a1" not in fleet.crew()
    # Nor in the next epoch of its own vessel, which forgets versions.
    fleet.ships["a"].restore()
    fleet.settle()
    fleet.shore.take(("crew", forged(fleet.ships["b"], "update", "a1", version=51)))
    assert "a1" not in fleet.crew()
    fleet.shore.start()
    fleet.shore.take(("crew", forged(fleet.ships["b"], "update", "a1", version=52)))
    assert "a1" not in fleet.crew()


def test_a_vessels_sweep_leaves_another_vessels_rows(fleet: Fleet) -> None:
    fleet.shore.take(("crew", forged(fleet.ships["b"], "update", "a1")))
    fleet.ships["b"].rows.clear()
    fleet.ships["b"].restore()
    fleet.settle()
    assert fleet.crew() == fleet.aboard("a")
    noted = "SELECT owner FROM arus_row WHERE vessel_id = 'b' AND NOT deleted"
    assert fleet.shore.connection.execute(text(noted)).all() == []


def test_whoever_tells_first_in_one_batch_has_the_row(fleet: Fleet) -> None:
    first = fleet.ships["b"].log_change("crew", {"name": "first"}, row_id="new")
    second = fleet.ships["a"].log_change("crew", {"name": "second"}, row_id="new")
    fleet.shore.take(("crew", first), ("crew", second))
    assert fleet.crew()["new"] == (1, "first")


class Valve(Base):
    __tablename__ = "valve"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    version: Mapped[int]


class ValveSchema(Schema):
    id = fields.UUID()
    version = fields.Integer()


@pytest.mark.parametrize("spelling", ["{upper}", "{{{id}}}", "{hex}", "urn:uuid:{id}"])
def test_one_row_has_one_id_however_it_could_be_spelt(spelling: str) -> None:
    registry = Registry()
    registry.add(Valve, "valves", topic="valves", qos=1, schema=ValveSchema(), version="version")
    copy = Copy(next(iter(registry)))
    row_id = uuid4()
    copy.check_id(str(row_id))
    with pytest.raises(RefusedMessageError, match="lower case"):
        copy.check_id(spelling.format(id=row_id, upper=str(row_id).upper(), hex=row_id.hex))


def test_a_vessel_that_speaks_of_all_rows_of_another_fills_no_log_and_no_inbox(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    count = MAX_FOREIGN_KEPT + 20
    for number in range(count):
        fleet.change("a", f"x{number}", name="mine")
    claims = [forged(fleet.ships["b"], "update", f"x{number}") for number in range(count)]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        fleet.shore.take(*[("crew", claim) for claim in claims])
    assert len(caplog.records) == 1
    parked = fleet.shore.connection.execute(text("SELECT count(*) FROM arus_parked")).scalar()
    assert parked == MAX_FOREIGN_KEPT
    assert fleet.counted(REFUSED) == count


# -- what was not asked for ----------------------------------------------------------------------------


@pytest.mark.parametrize("request_id", [None, "another's"])
@pytest.mark.parametrize("epoch", ["an invented one", "the vessel's"])
@pytest.mark.parametrize("buckets", [None, list(range(64))])
@pytest.mark.parametrize("first", ["begin", "status", "change"])
def test_an_empty_snapshot_that_was_not_asked_for_deletes_nothing(
    request_id: str | None, epoch: str, buckets: list[int] | None, first: str
) -> None:
    fleet = Fleet("a")
    for number in range(20):
        fleet.change("a", f"a{number}", name="Ann")
    fleet.settle()
    ship, liar = fleet.ships["a"], ShipModel("a")
    liar.seq = 100
    if epoch == "the vessel's":
        liar.epoch = ship.epoch
    if first == "status":
        fleet.shore.take(("system/status", liar.status_document()))
    if first == "change":
        change = liar.log_change("crew", {"name": "more"}, row_id="a0")
        fleet.shore.take(("crew", {**change, "version": 90, "data": row("a0", 90)}))
        liar.rows.clear()
    request = {"entity": "crew", "mode": "snapshot", "requestId": request_id, "buckets": buckets}
    for _, messages in liar.answers_to(request):
        fleet.shore.take(*[("catchup/crew", {**m, "complete": True}) for m in messages])
    assert len(fleet.crew()) == 20
    # The vessel's next status, and its own answers, put everything right.
    fleet.settle()
    assert set(fleet.crew()) == set(fleet.aboard("a"))
    assert fleet.shore.applier.vessels["a"].epoch == ship.epoch
    assert fleet.shore.applier.vessels["a"].caught_up


def test_the_answer_to_our_own_request_tells_the_epoch(fleet: Fleet) -> None:
    liar = ShipModel("a")
    fleet.shore.take(("system/status", liar.status_document()))
    assert fleet.shore.applier.vessels["a"].epoch == liar.epoch
    ship = fleet.ships["a"]
    # No status comes any more: the vessel has nothing new to say.
    for _ in range(4):
        for request in fleet.shore.ask():
            for topic, messages in ship.answers_to(request):
                if topic in {"crew", "equipment"}:
                    fleet.shore.take(*[(f"catchup/{topic}", message) for message in messages])
    assert fleet.shore.applier.vessels["a"].epoch == ship.epoch
    assert fleet.shore.applier.vessels["a"].caught_up
    assert set(fleet.crew()) == {"a1", "a2", "b1"}


# -- numbers -------------------------------------------------------------------------------------------

LIES = [HUGE, MAX_LEAP * 3, MAX_LEAP - 5, 1000, 30, 6]


def lie(kind: str, ship: ShipModel, number: int) -> tuple[str, dict[str, Any]]:
    """A message under the vessel's name whose number the vessel has not given out."""
    change = {
        "type": "data_change", "entity": "crew", "operation": "update", "data": row(LIE),
        "timestamp": iso(now_ms()), "messageId": "1_a", "vesselId": ship.vessel_id,
        "epoch": ship.epoch, "seq": number, "previousSeq": ship.seq, "version": 50,
    }  # fmt: skip
    status = {**ship.status_document(), "seq": number}
    begin = {
        "type": "catchup_begin", "catchupId": str(uuid4()), "requestId": None, "vesselId": ship.vessel_id,
        "entity": "crew", "epoch": ship.epoch, "mode": "log", "highSeq": number, "sinceSeq": 0,
        "complete": False, "buckets": None, "total": 0, "timestamp": iso(now_ms()),
    }  # fmt: skip
    entities = {
        "crew": {"topic": "crew", "lastSeq": 0},
        "equipment": {"topic": "equipment", "lastSeq": 0},
    }
    digest = {"type": "digest", "vesselId": ship.vessel_id, "epoch": ship.epoch, "seq": number,
              "timestamp": iso(now_ms()), "entities": entities}  # fmt: skip
    item = {**change, "type": "catchup", "catchupId": "c", "sequence": 0, "total": 1}
    return {
        "change": ("crew", change),
        "change of another topic": (
            "equipment",
            {**change, "entity": "equipment", "previousSeq": 0},
        ),
        "change beyond a gap": ("crew", {**change, "previousSeq": number - 1}),
        "status": ("system/status", {**status, "topics": {}}),
        "status with heads": ("system/status", {**status, "topics": {"crew": number}}),
        "digest": ("system/digest", digest),
        "conflict": ("conflicts", {**change, "entity": "conflicts"}),
        "begin": ("catchup/crew", begin),
        "item": ("catchup/crew", item),
    }[kind]


KINDS = [
    "change", "change of another topic", "change beyond a gap", "status", "status with heads",
    "digest", "conflict", "begin", "item",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", LIES)
def test_a_number_that_was_never_given_out_does_not_last(kind: str, number: int) -> None:
    fleet = Fleet("a")
    for one in range(5):
        fleet.change("a", f"a{one}", name="Ann")
    fleet.settle()
    ship = fleet.ships["a"]
    fleet.shore.take(lie(kind, ship, number))
    fleet.shore.start()
    fleet.change("a", "later", name="Bo")
    fleet.change("a", "a1", name="Anna")
    assert fleet.crew()["later"] == (1, "Bo")
    assert fleet.crew()["a1"] == (2, "Anna")
    fleet.settle()
    fleet.change("a", "a2", "delete")
    fleet.settle()
    assert fleet.without_the_lie() == fleet.aboard("a")
    vessel = fleet.shore.applier.vessels["a"]
    assert vessel.caught_up
    assert (vessel.seq, vessel.head) == (ship.seq, ship.seq)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        STEP
        | st.tuples(
            st.just("lie"), st.sampled_from(KINDS), st.integers(1, 40) | st.sampled_from(LIES)
        ),
        max_size=40,
    )
)
def test_whatever_is_lost_and_whatever_is_lied_it_ends_with_what_the_vessel_has(
    steps: list[tuple[Any, ...]],
) -> None:
    sea = Sea()
    sea.write("crew", "crew-first", delete=False)
    for step in steps:
        if step[0] == "lie":
            _, kind, ahead = step
            sea.on_its_way.append(lie(kind, sea.ship, sea.ship.seq + ahead))
        else:
            play(sea, step)
    sea.write("crew", "crew-last", delete=False)
    for _ in range(16):
        sea.status()
        sea.deliver(len(sea.on_its_way))
        sea.answer()
    found = {key: told for key, told in sea.shore.rows().items() if key[1] != LIE}
    assert found == {key: (row["version"], row["name"]) for key, row in sea.ship.rows.items()}
    (vessel,) = sea.shore.applier.vessels.values()
    assert vessel.caught_up
    assert (vessel.seq, vessel.head) == (sea.ship.seq, sea.ship.seq)


def test_a_leap_is_applied_to_nothing_and_the_vessel_is_asked(fleet: Fleet) -> None:
    before = fleet.crew()
    ship = fleet.ships["a"]
    kind, message = lie("change", ship, HUGE)
    fleet.shore.take((kind, {**message, "data": row("a1")}))
    assert fleet.crew() == before
    (request,) = fleet.shore.ask()
    assert (request["vesselId"], request["entity"], request["sinceSeq"]) == ("a", "crew", 2)


def test_a_leap_that_the_vessel_announces_is_applied_at_once(fleet: Fleet) -> None:
    ship = fleet.ships["a"]
    ship.seq += 10 * MAX_LEAP  # superseded while it was away
    fleet.shore.take(("system/status", ship.status_document()))
    fleet.change("a", "a1", name="Anna")
    assert fleet.crew()["a1"] == (2, "Anna")
    assert fleet.shore.ask() == []


def test_a_leap_without_a_word_before_is_fetched(fleet: Fleet) -> None:
    ship = fleet.ships["a"]
    ship.seq += 10 * MAX_LEAP
    fleet.change("a", "a1", name="Anna")
    assert fleet.crew()["a1"] == (1, "Ann")
    (request,) = fleet.shore.ask()
    for topic, messages in ship.answers_to(request):
        fleet.shore.take(*[(f"catchup/{topic}", message) for message in messages])
    assert fleet.crew()["a1"] == (2, "Anna")
    assert fleet.shore.applier.vessels["a"].caught_up


def test_a_status_that_the_broker_has_kept_takes_nothing_back(fleet: Fleet) -> None:
    old = fleet.ships["a"].status_document()
    fleet.change("a", "a1", name="Anna")
    fleet.shore.take_retained(("system/status", old))
    assert fleet.shore.ask() == []
    assert fleet.shore.applier.vessels["a"].caught_up


def test_a_row_under_a_version_that_was_never_given_out_is_repaired_by_a_snapshot(
    fleet: Fleet,
) -> None:
    ship = fleet.ships["a"]
    kind, message = lie("change", ship, ship.seq + 1)
    fleet.shore.take((kind, {**message, "data": row("a1", HUGE), "version": HUGE}))
    assert fleet.crew()["a1"] == (HUGE, "taken")
    fleet.change("a", "a2", name="Alf")
    fleet.settle()
    vessel = fleet.shore.applier.vessels["a"]
    position = vessel.positions["crew"]
    position.need, position.buckets = type(position.need).ROWS, tuple(range(64))
    (request,) = fleet.shore.ask()
    for topic, messages in ship.answers_to(request):
        fleet.shore.take(*[(f"catchup/{topic}", message) for message in messages])
    assert fleet.crew() == {**fleet.aboard("a"), **fleet.aboard("b")}


# -- columns that the vessel does not send -------------------------------------------------------------


class Pump(Base):
    __tablename__ = "pump"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]
    kind: Mapped[str] = mapped_column(server_default="fire")
    hours: Mapped[int] = mapped_column(server_default=text("7"))
    active: Mapped[bool] = mapped_column(server_default=true())
    hot: Mapped[bool] = mapped_column(server_default="0")
    note: Mapped[str] = mapped_column(default="none")
    place: Mapped[str]
    made_at: Mapped[str] = mapped_column(server_default=func.now())


class PumpSchema(Schema):
    id = fields.String()
    version = fields.Integer()
    kind = fields.String()
    hours = fields.Integer()
    active = fields.Boolean()
    hot = fields.Boolean()
    note = fields.String()
    place = fields.String()
    made_at = fields.String()


def test_a_column_with_a_default_is_not_needed_from_the_vessel() -> None:
    registry = Registry()
    registry.add(Pump, "pumps", topic="pumps", qos=1, schema=PumpSchema(), version="version")
    copy = Copy(next(iter(registry)))
    assert copy.needed == {"id", "place", "made_at"}
    given = {"id": "p", "version": 1, "place": "aft", "made_at": "now"}
    assert copy.values(given, 1) == {
        **given, "kind": "fire", "hours": 7, "active": True, "hot": False, "note": "none",
    }  # fmt: skip
