"""Whatever is lost, repeated or cut short, and wherever it crashes: a follower ends with what the vessel has."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import Schema, fields
from sqlalchemy import MetaData, String, create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import StaticPool

from arus.follower import tables
from arus.follower.outcome import Inbound
from arus.follower.requests import Patience, ask, unanswered
from arus.outbox.tables import define
from arus.protocol.encoding import encode
from arus.protocol.messages import CatchupRequest
from arus.protocol.times import now_ms
from arus.registry import Registry
from tests.support.applier import new_applier
from tests.support.ship_model import ShipModel

IDS = [f"row-{number}" for number in range(6)]


#: The fields that the copy stores, over which a vessel of today makes a digest when asked.
FIELDS = frozenset({"id", "version", "name"})


class Base(DeclarativeBase):
    metadata = MetaData()


class Crew(Base):
    __tablename__ = "crew"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]
    name: Mapped[str]


class Equipment(Base):
    __tablename__ = "equipment"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]
    name: Mapped[str]


class RowSchema(Schema):
    id = fields.String()
    version = fields.Integer()
    name = fields.String()


define(Base.metadata)
tables.define(Base.metadata)
REGISTRY = Registry()
for model, entity in ((Crew, "crew"), (Equipment, "equipment")):
    REGISTRY.add(model, entity, topic=entity, qos=1, schema=RowSchema(), version="version")


class Shore:
    """A follower without a broker: what is sent to it comes when a test says so."""

    def __init__(self) -> None:
        engine = create_engine("sqlite://", poolclass=StaticPool, isolation_level="AUTOCOMMIT")
        Base.metadata.create_all(engine)
        self.connection = engine.connect()
        self.clock = now_ms()
        self.start()

    def start(self) -> None:
        """Begin from the database alone, as after a crash."""
        self.applier = new_applier(self.connection, REGISTRY)

    def take(self, *messages: tuple[str, Any]) -> None:
        """Apply messages in one transaction."""
        self.applier.apply(
            [Inbound(f"p/{topic}", orjson.dumps(body), retain=False) for topic, body in messages]
        )

    def take_raw(self, topic: str, *payloads: bytes) -> None:
        """Apply payloads in one transaction."""
        self.applier.apply([Inbound(f"p/{topic}", payload, retain=False) for payload in payloads])

    def take_retained(self, *messages: tuple[str, Any]) -> None:
        """Apply messages that the broker has kept."""
        self.applier.apply(
            [Inbound(f"p/{topic}", orjson.dumps(body), retain=True) for topic, body in messages]
        )

    def ask(self) -> list[dict[str, Any]]:
        """What it asks for, after a long time."""
        self.clock += 10_000_000
        requests: list[CatchupRequest] = []
        for vessel in self.applier.vessels.values():
            if vessel.heads is not None:
                for position in vessel.behind(vessel.heads):
                    position.need = position.need or type(position.need).CHANGES
            requests += unanswered(vessel)
            requests += ask(vessel, self.clock, Patience(), lambda: f"r{random.random()}")
        self.applier.save({})
        return [orjson.loads(encode(request)) for request in requests]

    def rows(self) -> dict[tuple[str, str], tuple[int, str]]:
        return {
            (model.__tablename__, row.id): (row.version, row.name)
            for model in (Crew, Equipment)
            for row in self.connection.execute(select(model.__table__))
        }

    @property
    def watermark(self) -> int:
        return int(self.connection.execute(text("SELECT seq FROM arus_vessel")).scalar_one())


class Sea:
    """A ship, a shore, and what is on its way between them, in order."""

    def __init__(self) -> None:
        self.ship = ShipModel()
        self.shore = Shore()
        self.on_its_way: deque[tuple[str, Any]] = deque()

    def write(self, topic: str, row_id: str, *, delete: bool) -> None:
        there = (topic, row_id) in self.ship.rows
        if delete and not there:
            return
        # A row that was deleted comes back under its id only with a higher version: its id is used once.
        if not there and any(m["data"]["id"] == row_id for m in self.ship.log):
            return
        if not there and row_id in self._used:
            return
        self._used.add(row_id)
        operation = "delete" if delete else None
        row = {} if delete else {"name": f"n{self.ship.seq}"}
        message = self.ship.log_change(topic, row, operation, row_id)
        self.on_its_way.append((topic, message))

    @property
    def _used(self) -> set[str]:
        return self.__dict__.setdefault("used", set())

    def deliver(self, count: int, *, crash: bool = False, twice: bool = False) -> None:
        batch = [self.on_its_way.popleft() for _ in range(min(count, len(self.on_its_way)))]
        self.shore.take(*batch)
        if twice:
            self.shore.take(*batch)
        if crash:
            self.shore.start()

    def lose(self, count: int) -> None:
        for _ in range(min(count, len(self.on_its_way))):
            self.on_its_way.popleft()

    def answer(self) -> None:
        for request in self.shore.ask():
            if request.get("mode") == "digest":
                self.on_its_way.append(("system/digest", self.ship.digest_document(FIELDS)))
                continue
            for topic, messages in self.ship.answers_to(request):
                if topic in {"crew", "equipment"}:
                    self.on_its_way += [(f"catchup/{topic}", message) for message in messages]

    def status(self) -> None:
        self.on_its_way.append(("system/status", self.ship.status_document()))

    def settle(self) -> None:
        """Nothing is lost any more."""
        for _ in range(12):
            self.status()
            self.deliver(len(self.on_its_way))
            self.answer()
            if not self.on_its_way:
                break
        expected = {
            (topic, row_id): (row["version"], row["name"])
            for (topic, row_id), row in self.ship.rows.items()
        }
        assert self.shore.rows() == expected
        assert self.shore.watermark == self.ship.seq
        (vessel,) = self.shore.applier.vessels.values()
        assert vessel.caught_up
        assert not any(position.beyond for position in vessel.positions.values())


WRITE = st.tuples(
    st.just("write"), st.sampled_from(["crew", "equipment"]), st.sampled_from(IDS), st.booleans()
)
STEP = st.one_of(
    WRITE,
    WRITE,
    WRITE,
    st.tuples(st.just("deliver"), st.integers(1, 6), st.booleans(), st.booleans()),
    st.tuples(st.just("deliver"), st.integers(1, 6), st.booleans(), st.booleans()),
    st.tuples(st.just("lose"), st.integers(1, 4)),
    st.tuples(st.just("superseded"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["answer", "status", "epoch", "prune", "reorder"])),
)


def play(sea: Sea, step: tuple[Any, ...]) -> None:  # noqa: C901  # one kind of step a branch
    match step:
        case ("write", topic, row_id, delete):
            sea.write(topic, f"{topic}-{row_id}", delete=delete)
        case ("deliver", count, crash, twice):
            sea.deliver(count, crash=crash, twice=twice)
        case ("lose", count):
            sea.lose(count)
        case ("superseded", count):
            sea.ship.seq += count
        case ("answer",):
            sea.answer()
        case ("status",):
            sea.status()
        case ("prune",):
            sea.ship.prune()
        case ("epoch",):
            sea.ship.restore()
            sea.status()
        case ("reorder",):
            if len(sea.on_its_way) > 1:
                sea.on_its_way.rotate(1)


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(st.lists(STEP, max_size=40))
def test_it_ends_with_what_the_vessel_has(steps: list[tuple[Any, ...]]) -> None:
    sea = Sea()
    for step in steps:
        play(sea, step)
    sea.write("crew", "crew-last", delete=False)
    sea.settle()


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.lists(STEP, max_size=40))
def test_the_watermark_never_claims_what_is_not_there(steps: list[tuple[Any, ...]]) -> None:
    sea = Sea()
    history: dict[tuple[str, int], dict[tuple[str, str], int]] = {}

    def note() -> None:
        versions = {key: row["version"] for key, row in sea.ship.rows.items()}
        history[sea.ship.epoch, sea.ship.seq] = versions

    note()
    for step in steps:
        play(sea, step)
        note()
        vessels = list(sea.shore.applier.vessels.values())
        if not vessels or (vessels[0].epoch, vessels[0].seq) not in history or not vessels[0].seq:
            continue
        # Each row is there in the version of that number, or a newer one, or deleted since.
        found = sea.shore.rows()
        noted = sea.shore.connection.execute(text("SELECT row_id, version FROM arus_row"))
        known = {row.row_id: row.version for row in noted}
        for key, version in history[vessels[0].epoch, vessels[0].seq].items():
            assert known.get(key[1], 0) >= version, (key, vessels[0])
            if key not in found:
                assert key not in sea.ship.rows or sea.ship.rows[key]["version"] > version
