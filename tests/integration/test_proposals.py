"""Proposals on the vessel: answered once, with a version above both sides', whatever they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import orjson
import pytest
from flask import Flask
from sqlalchemy import text

from arus.database import open_engine
from arus.errors import ProposalError
from arus.inbound.proposals import Acceptance, Proposal, Proposals
from arus.outbox.counters import PROPOSAL_REFUSALS, read_counters
from arus.outbox.log import ChangeLog
from arus.protocol.conflicts import vessel_wins
from arus.protocol.times import iso, now_ms
from arus.registry import Registration
from blueprints.crew.models import CrewMember
from blueprints.equipment.models import Equipment
from blueprints.work_orders.models import WorkOrder
from extensions import db, sync

LATER = 60_000


class Ship:
    """A vessel with one member of the crew, and what it does about proposals."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.registry = sync.runtime(app).registry
        self.woken = 0
        self.proposals = Proposals(db.session, self.wake)
        self.row = CrewMember(name="Bosun", rank="bosun")
        db.session.add(self.row)
        db.session.commit()
        self.id = self.row.id

    def wake(self) -> None:
        self.woken += 1

    def registration(self, entity: str = "crew") -> Registration:
        found = self.registry.of_entity(entity)
        assert found is not None
        return found

    def take(self, proposal: Mapping[str, Any], entity: str = "crew", **how: Any) -> None:
        self.proposals.handle(Acceptance(**how), self.registration(entity), orjson.dumps(proposal))
        db.session.remove()

    def data(self) -> dict[str, Any]:
        row = db.session.get(CrewMember, self.id)
        data: dict[str, Any] = orjson.loads(self.registration().serialise(row))
        return data

    def log(self, entity: str = "crew") -> list[Any]:
        """Operation, version and data of each entry."""
        with db.engine.connect() as connection:
            rows = connection.execute(
                text(
                    "SELECT operation, version, data, row_id FROM arus_change WHERE entity = :e ORDER BY id"
                ),
                {"e": entity},
            )
            return [(o, v, orjson.loads(bytes(d)), i) for o, v, d, i in rows]

    def conflicts(self) -> list[dict[str, Any]]:
        """The reports, which are the same in the table and in the log."""
        with db.engine.connect() as connection:
            rows = connection.execute(
                text("SELECT report FROM arus_conflict ORDER BY id")
            ).scalars()
            reports = [orjson.loads(bytes(row)) for row in rows]
        assert [entry[2] for entry in self.log("conflicts")] == reports
        return reports

    def refusals(self) -> int:
        with db.engine.connect() as connection:
            return read_counters(connection).get((PROPOSAL_REFUSALS, "", "", ""), 0)


@pytest.fixture
def ship(app: Flask) -> Iterator[Ship]:
    engine = open_engine(app.config["DATABASE_URL"])
    with engine.connect() as connection:
        ChangeLog(connection, vessel_id="ship-1")
    engine.dispose()
    with app.app_context():
        yield Ship(app)
        db.session.remove()


def proposed(data: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    base = changes.get("baseVersion", data.get("version", 0))
    return {
        "type": "proposal",
        "proposalId": uuid4().hex,
        "vesselId": "ship-1",
        "entity": "crew",
        "operation": "update",
        "data": data,
        "baseVersion": base,
        "version": base + 1,
        "timestamp": iso(now_ms()),
        "origin": "shore",
        **changes,
    }


def edit(ship: Ship, *names: str) -> None:
    """Change the row on board, once for each name."""
    for name in names:
        row = db.session.get(CrewMember, ship.id)
        assert row is not None
        row.name = name
        db.session.commit()


def remove(ship: Ship) -> None:
    db.session.delete(db.session.get(CrewMember, ship.id))
    db.session.commit()


def test_a_proposal_is_applied_once_in_a_version_above_both(ship: Ship) -> None:
    proposal = proposed({**ship.data(), "name": "Chief bosun", "rank": None})
    for _ in range(3):
        ship.take(proposal)
    data = ship.data()
    assert (data["name"], data["rank"], data["version"]) == ("Chief bosun", None, 3)
    assert [entry[:2] for entry in ship.log()] == [("create", 1), ("update", 3)]
    assert ship.log()[-1][2] == data
    assert ship.conflicts() == []
    assert ship.woken == 3


def test_of_two_edits_the_one_with_more_versions_stands(ship: Ship) -> None:
    before = ship.data()
    edit(ship, "on board", "on board again")
    ship.take(proposed({**before, "name": "ashore"}, proposalId="p-1"))
    data = ship.data()
    assert (data["name"], data["version"]) == ("on board again", 4)
    (told,) = ship.conflicts()
    assert (told["winner"], told["rule"], told["version"]) == ("local", "version", 4)
    assert (told["conflictId"], told["origin"], told["rowId"]) == ("p-1", "shore", ship.id)
    assert told["local"]["name"] == "on board again"
    assert told["remote"]["name"] == "ashore"
    assert {"name", "updatedAt"} == set(told["fields"])
    assert ship.log()[-1][:2] == ("update", 4), "the vessel's row is told once more, above both"


def test_of_two_edits_the_later_stands_where_their_versions_are_one(ship: Ship) -> None:
    before = ship.data()
    edit(ship, "on board")
    ship.take(proposed({**before, "name": "long ago"}, timestamp="2020-01-01T00:00:00.000Z"))
    assert (ship.data()["name"], ship.data()["version"]) == ("on board", 3)
    edit(ship, "on board again")
    ahead = iso(now_ms() + LATER)
    ship.take(proposed({**before, "name": "ashore"}, baseVersion=3, timestamp=ahead))
    assert (ship.data()["name"], ship.data()["version"]) == ("ashore", 5)
    assert [told["winner"] for told in ship.conflicts()] == ["local", "remote"]


def test_a_policy_of_ones_own_decides(ship: Ship) -> None:
    before = ship.data()
    edit(ship, "on board")
    ship.take(proposed({**before, "name": "ashore"}, version=9), policy=vessel_wins)
    assert (ship.data()["name"], ship.data()["version"]) == ("on board", 10)
    assert ship.conflicts()[0]["rule"] == "vessel"


def test_a_row_is_deleted(ship: Ship) -> None:
    ship.take(proposed(ship.data(), operation="delete"))
    assert db.session.get(CrewMember, ship.id) is None
    assert ship.log()[-1][:2] == ("delete", 3)
    assert ship.conflicts() == []


def test_a_delete_and_an_edit(ship: Ship) -> None:
    before = ship.data()
    edit(ship, "a", "b")
    ship.take(proposed(before, operation="delete"))
    assert (ship.data()["name"], ship.data()["version"]) == ("b", 4)
    (told,) = ship.conflicts()
    assert told["remote"] is None
    ship.take(proposed(before, operation="delete", version=7))
    assert db.session.get(CrewMember, ship.id) is None
    assert ship.log()[-1][:2] == ("delete", 8)


def test_an_edit_of_a_row_that_is_deleted(ship: Ship) -> None:
    before = ship.data()
    edit(ship, "a", "b")
    remove(ship)
    ship.take(proposed({**before, "name": "ashore"}))
    assert db.session.get(CrewMember, ship.id) is None
    assert ship.log()[-1][:2] == ("delete", 5), "its deletion is told once more, above both"
    ship.take(proposed({**before, "name": "ashore"}, version=6))
    assert (ship.data()["name"], ship.data()["version"]) == ("ashore", 7)
    assert [told["winner"] for told in ship.conflicts()] == ["local", "remote"]
    assert ship.conflicts()[0]["local"] is None
    edit(ship, "and on it goes")
    assert ship.data()["version"] == 8


def test_both_have_deleted_it(ship: Ship) -> None:
    before = ship.data()
    remove(ship)
    ship.take(proposed(before, operation="delete"))
    assert ship.log()[-1][:2] == ("delete", 3)
    assert ship.conflicts() == [], "they agree"


def test_a_new_row(ship: Ship) -> None:
    new = {
        "id": str(uuid4()),
        "version": 1,
        "name": "Cook",
        "active": False,
        "createdAt": "2026-01-01T00:00:00.000Z",
    }
    ship.take(proposed(new, operation="create", baseVersion=0))
    row = db.session.get(CrewMember, new["id"])
    assert row is not None
    assert (row.name, row.active, row.version) == ("Cook", False, 2)
    assert iso(round(row.created_at.timestamp() * 1000)) == new["createdAt"]
    assert ship.log()[-1][:2] == ("create", 2)
    assert ship.conflicts() == []


def test_a_new_row_whose_id_is_taken_is_a_conflict(ship: Ship) -> None:
    edit(ship, "a", "b")
    ship.take(proposed({"id": ship.id, "name": "Cook"}, operation="create", baseVersion=0))
    assert (ship.data()["name"], ship.data()["version"]) == ("b", 4)
    assert len(ship.conflicts()) == 1


def test_a_row_that_the_log_has_forgotten(ship: Ship) -> None:
    with db.engine.begin() as connection:
        connection.execute(text("UPDATE arus_session SET complete_since = :now"), {"now": now_ms()})
    gone = {"id": str(uuid4()), "name": "Cook", "version": 4}
    ship.take(proposed(gone, timestamp="2020-01-01T00:00:00.000Z"))
    assert db.session.get(CrewMember, gone["id"]) is None
    assert ship.log()[-1][:2] == ("delete", 6)
    assert ship.log()[-1][3] == gone["id"]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [({"name": None}, "invalid: name"), ({"name": "x" * 300}, "invalid: name"), ({"active": "maybe"}, "invalid: active")],
)  # fmt: skip
def test_a_row_that_is_not_valid_is_answered_with_the_vessels(
    ship: Ship, changes: dict[str, Any], rule: str
) -> None:
    ship.take(proposed({**ship.data(), **changes}))
    assert (ship.data()["name"], ship.data()["version"]) == ("Bosun", 3)
    (told,) = ship.conflicts()
    assert (told["winner"], told["rule"]) == ("local", rule)


def test_a_row_that_the_database_refuses_is_answered_with_the_vessels(ship: Ship) -> None:
    pump = Equipment(name="Pump", type="pump")
    db.session.add(pump)
    db.session.flush()
    order = WorkOrder(equipment_id=pump.id, reason="leak", wo_number="WO-1")
    db.session.add(order)
    db.session.commit()
    data = orjson.loads(ship.registration("work_orders").serialise(order))
    nowhere = {**data, "equipmentId": str(uuid4())}
    ship.take(proposed(nowhere, entity="work_orders"), "work_orders")
    kept = db.session.get(WorkOrder, data["id"])
    assert kept is not None
    assert (kept.equipment_id, kept.version) == (data["equipmentId"], 3)
    assert ship.conflicts()[0]["rule"].startswith("impossible: ")
    assert ship.log("work_orders")[-1][:2] == ("update", 3)


def test_a_check_may_refuse_or_alter(ship: Ship) -> None:
    def refuse(_proposal: Proposal) -> None:
        raise ProposalError("the captain decides")

    def alter(proposal: Proposal) -> dict[str, Any]:
        return {**proposal.data, "rank": "altered"}

    ship.take(proposed({**ship.data(), "name": "x"}), check=refuse)
    assert (ship.data()["name"], ship.data()["version"]) == ("Bosun", 3)
    assert ship.conflicts()[0]["rule"] == "refused: the captain decides"
    ship.take(proposed({**ship.data(), "name": "y"}), check=alter)
    data = ship.data()
    assert (data["name"], data["rank"], data["version"]) == ("y", "altered", 5)


def test_what_is_the_servers_to_set_stays_the_servers(ship: Ship) -> None:
    before = ship.data()
    ship.take(
        proposed({**before, "createdAt": "1999-01-01T00:00:00.000Z", "name": "x", "unknown": 1})
    )
    assert (ship.data()["createdAt"], ship.data()["name"]) == (before["createdAt"], "x")
    assert ship.conflicts() == []


def test_one_for_another_vessel_is_left(ship: Ship) -> None:
    ship.take(proposed(ship.data(), vesselId="ship-2"))
    assert (ship.data()["version"], ship.refusals()) == (1, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "data_change"},
        {"entity": "work_orders"},
        {"operation": "upsert"},
        {"operation": None},
        {"data": []},
        {"data": {"name": "no id"}},
        {"proposalId": ""},
        {"proposalId": "x" * 65},
        {"proposalId": None},
        {"origin": 7},
        {"timestamp": "yesterday"},
        {"timestamp": None},
        {"version": 1},
        {"version": True},
        {"version": 2**40},
        {"baseVersion": -1},
        {"baseVersion": 1.5},
        {"baseVersion": 2**30, "version": 2**30 + 1},
        {"data": {"id": "x", "notes": "x" * 300_000}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_what_is_malformed_is_counted_and_has_no_effect(
    ship: Ship, changes: dict[str, Any]
) -> None:
    ship.take({**proposed(ship.data()), **changes})
    assert (ship.data()["version"], ship.refusals(), ship.woken) == (1, 1, 0)
    assert ship.conflicts() == []


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize("payload", [b"", b"\xff", b"[]", b"null", b'{"type":"proposal"}'])
def test_what_is_no_proposal_is_counted(ship: Ship, payload: bytes) -> None:
    ship.proposals.handle(Acceptance(), ship.registration(), payload)
    assert ship.refusals() == 1
