"""Both sides write the same rows, offline or not; messages are lost, late and repeated: both have the same rows.

Real databases, the vessel's handler and the follower's applier; only the network is made of lists.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arus.database import open_engine
from arus.errors import ProposalError
from arus.follower.applier import Applier
from arus.follower.audits.ledger import Ledger
from arus.follower.messages import Reader
from arus.follower.outcome import Inbound
from arus.follower.proposals import Outbox, propose, read_proposals
from arus.follower.rows import Copy
from arus.follower.store import Store
from arus.inbound.proposals import Acceptance, Proposals
from arus.outbox.log import ChangeLog
from arus.protocol.encoding import encode_change
from arus.protocol.entries import Operation
from blueprints.crew.models import CrewMember
from extensions import db, sync

pytestmark = pytest.mark.slow

STEPS = (
    "ship edits", "ship edits", "ship deletes", "ship adds",
    "shore edits", "shore edits", "shore edits", "shore deletes", "shore adds",
    "ship hears", "ship hears", "ship hears twice", "proposals are lost",
    "shore hears", "shore hears", "shore hears a part", "shore hears the end first",
)  # fmt: skip


class World:
    """A vessel, a follower, and what is on its way between them."""

    def __init__(self, ship: Flask, shore: Flask, stack: ExitStack) -> None:
        self.ship, self.shore = ship, shore
        registration = sync.runtime(ship).registry.of_entity("crew")
        assert registration is not None
        self.registration = registration
        self.proposals = Proposals(db.session, lambda: None)
        engine = open_engine(ship.config["DATABASE_URL"])
        stack.callback(engine.dispose)
        self.log = ChangeLog(stack.enter_context(engine.connect()), vessel_id="ship-1")
        engine = open_engine(shore.config["DATABASE_URL"])
        stack.callback(engine.dispose)
        self.here = stack.enter_context(engine.connect())
        self.elsewhere = stack.enter_context(engine.connect())
        copies = {"crew": Copy(self.registration)}
        self.copy = copies["crew"]
        followed = {copy.followed.topic: copy.followed for copy in copies.values()}
        store = Store(self.here, followed.values())
        self.applier = Applier(
            self.here, store, copies, Reader("vessel/sync", followed), "test", Ledger(self.here)
        )
        self.outbox = Outbox(self.here, copies)
        self.told = 0
        #: Messages of the vessel that have not come ashore.
        self.out: list[Inbound] = []
        self.count = 0

    # -- the ship -----------------------------------------------------------------------------------

    def name(self) -> str:
        self.count += 1
        return f"name {self.count}"

    def ship_row(self, row_id: str) -> CrewMember | None:
        return db.session.get(CrewMember, row_id)

    def ship_edits(self, row_id: str) -> None:
        with self.ship.app_context():
            row = self.ship_row(row_id)
            if row is not None:
                row.name = self.name()
                db.session.commit()

    def ship_deletes(self, row_id: str) -> None:
        with self.ship.app_context():
            row = self.ship_row(row_id)
            if row is not None:
                db.session.delete(row)
                db.session.commit()

    def ship_adds(self, row_id: str) -> None:
        with self.ship.app_context():
            if self.ship_row(row_id) is None and not self.known(row_id):
                db.session.add(CrewMember(id=row_id, name=self.name()))
                db.session.commit()

    def known(self, row_id: str) -> bool:
        """Whether the id was used before: it must not be used again."""
        rows = db.session.execute(
            db.text("SELECT 1 FROM arus_change WHERE row_id = :id"), {"id": row_id}
        )
        return rows.first() is not None

    def publish(self) -> None:
        """Number what was committed, and put it on its way."""
        with self.log.fenced_transaction() as fenced:
            entries = fenced.number(self.log.unnumbered(10_000))
            fenced.save_topic_queues()
        for entry in entries:
            if entry.entity == "crew":
                payload = encode_change(entry, epoch=self.log.epoch, vessel_id="ship-1")
                self.out.append(Inbound("vessel/sync/crew", payload, retain=False))

    def ship_hears(self, times: int = 1) -> None:
        self.outbox.again()
        messages = self.outbox.due()
        self.outbox.taken([message.proposal_id for message in messages])
        with self.ship.app_context():
            for _ in range(times):
                for message in messages:
                    assert message.topic == "proposals/crew"
                    self.proposals.handle(Acceptance(), self.registration, message.payload)
                    db.session.remove()

    def ship_hears_twice(self, _row_id: str) -> None:
        self.ship_hears(2)

    def proposals_are_lost(self, _row_id: str) -> None:
        self.outbox.again()
        self.outbox.due()

    # -- the shore ----------------------------------------------------------------------------------

    def propose(self, operation: Operation, row_id: str, **data: Any) -> None:
        try:
            propose(
                self.elsewhere,
                self.copy,
                operation,
                row_id,
                data,
                origin="shore",
                vessel_id="ship-1",
            )
        except ProposalError:
            return  # the row is there already, or is not there: nothing to be done about it

    def shore_edits(self, row_id: str) -> None:
        self.propose(Operation.UPDATE, row_id, name=self.name())

    def shore_deletes(self, row_id: str) -> None:
        self.propose(Operation.DELETE, row_id)

    def shore_adds(self, row_id: str) -> None:
        self.propose(Operation.CREATE, row_id, name=self.name())

    def shore_hears(self, _row_id: str = "") -> None:
        self.publish()
        self.applier.apply(self.out)
        self.told = len(self.out)

    def shore_hears_a_part(self, _row_id: str) -> None:
        self.publish()
        missed = len(self.out) - self.told
        self.applier.apply(self.out[self.told : self.told + (missed + 1) // 2])
        self.told += (missed + 1) // 2

    def shore_hears_the_end_first(self, _row_id: str) -> None:
        self.publish()
        self.applier.apply(self.out[-1:])

    # -- the end ------------------------------------------------------------------------------------

    def do(self, step: str, row_id: str) -> None:
        if step == "ship hears":
            self.ship_hears()
        else:
            getattr(self, step.replace(" ", "_"))(row_id)

    def settle(self) -> None:
        """Let all arrive; everything is heard once more."""
        self.ship_hears()
        for _ in range(3):
            self.ship_hears()
            self.shore_hears()
        pending = [one for one in read_proposals(self.here, 10_000) if one.state == "pending"]
        assert pending == [], "each proposal is answered"

    def rows(self, app: Flask, row_ids: list[str]) -> dict[str, Any]:
        with app.app_context():
            found = (db.session.get(CrewMember, row_id) for row_id in row_ids)
            rows = {row.id: orjson.loads(self.registration.serialise(row)) for row in found if row}
            db.session.remove()
            return rows


@pytest.fixture
def world(
    make_app: Callable[..., Flask], tmp_path: Path, _migrated: Callable[[str], str]
) -> Iterator[World]:
    for name in ("ship", "shore"):
        shutil.copy(_migrated("sqlite"), tmp_path / f"{name}.sqlite")
    ship = make_app(f"sqlite:///{tmp_path}/ship.sqlite")
    shore = make_app(f"sqlite:///{tmp_path}/shore.sqlite", LOCAL_MODE="false")
    with ExitStack() as stack:
        world = World(ship, shore, stack)
        world.ship_adds(str(uuid4()))
        world.shore_hears()  # so that the vessel is known ashore
        yield world


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 1)), min_size=4, max_size=25),
    st.lists(st.booleans(), min_size=2, max_size=2),
)
def test_both_sides_converge(world: World, steps: list[tuple[str, int]], begun: list[bool]) -> None:
    row_ids = [str(uuid4()), str(uuid4())]
    for row_id, there in zip(row_ids, begun, strict=True):
        if there:
            world.ship_adds(row_id)
    world.shore_hears()
    for step, which in steps:
        world.do(step, row_ids[which])
    world.settle()
    on_board = world.rows(world.ship, row_ids)
    assert world.rows(world.shore, row_ids) == on_board
    # And they go on together.
    for row_id in on_board:
        world.shore_edits(row_id)
    world.settle()
    after = world.rows(world.ship, row_ids)
    assert world.rows(world.shore, row_ids) == after
    for row_id, row in after.items():
        assert row["name"] != on_board[row_id]["name"], "who alone has written stands"


def test_edits_offline_on_both_sides_leave_one_row_and_a_report(world: World) -> None:
    chance = random.Random(7)
    row_ids = [str(uuid4()) for _ in range(20)]
    for row_id in row_ids:
        world.ship_adds(row_id)
    world.shore_hears()
    for _ in range(200):
        step = chance.choice(["ship edits", "shore edits", "shore edits", "ship deletes"])
        world.do(step, chance.choice(row_ids))
    world.settle()
    assert world.rows(world.shore, row_ids) == world.rows(world.ship, row_ids)
    with world.ship.app_context(), db.engine.connect() as connection:
        reports = connection.execute(db.text("SELECT winner, rule FROM arus_conflict")).all()
        logged = connection.execute(
            db.text("SELECT COUNT(*) FROM arus_change WHERE entity = 'conflicts'")
        ).scalar_one()
    assert logged == len(reports)
    assert {winner for winner, _ in reports} == {"local", "remote"}


def test_what_waits_is_replaced_by_what_comes_after_it(world: World) -> None:
    (row_id,) = [str(uuid4())]
    world.ship_adds(row_id)
    world.shore_hears()
    world.shore_edits(row_id)
    world.ship_hears()
    for _ in range(3):
        world.shore_edits(row_id)  # the answer to the first has not come yet
    states = [one.state for one in read_proposals(world.here)]
    assert states.count("pending") == 1
    world.settle()
    assert world.rows(world.ship, [row_id]) == world.rows(world.shore, [row_id])
    assert world.rows(world.ship, [row_id])[row_id]["name"] == f"name {world.count}"


def test_proposals_that_cant_be_made(world: World) -> None:
    def refused(
        operation: Operation, row_id: str, vessel_id: str | None = None, **data: Any
    ) -> str:
        with pytest.raises(ProposalError) as caught:
            propose(
                world.elsewhere,
                world.copy,
                operation,
                row_id,
                data,
                origin="shore",
                vessel_id=vessel_id,
            )
        return str(caught.value)

    row_id = str(uuid4())
    world.ship_adds(row_id)
    world.shore_hears()
    assert "there is no row" in refused(Operation.UPDATE, str(uuid4()), name="x")
    assert "has no colour" in refused(Operation.UPDATE, row_id, colour="red")
    assert "name is missing" in refused(Operation.UPDATE, row_id, name=None)
    assert "already" in refused(Operation.CREATE, row_id, name="x")
    assert "no vessel 'ship-9'" in refused(Operation.CREATE, str(uuid4()), "ship-9", name="x")
    assert "not valid" in refused(Operation.CREATE, str(uuid4()), rank="x")
    assert read_proposals(world.here) == []
    new = str(uuid4())
    world.shore_adds(new)
    assert "not valid" in refused(Operation.CREATE, new, name="again, before it is answered")
    world.shore_edits(new)
    world.settle()
    assert world.rows(world.shore, [new])[new]["name"] == f"name {world.count}"
    assert world.rows(world.shore, [row_id]) == world.rows(world.ship, [row_id])
