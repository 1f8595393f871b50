"""Vessels and one follower with its audits, without any broker: what is published arrives at once."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import orjson
from marshmallow import Schema, fields
from sqlalchemy import Enum, MetaData, String, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from arus.database import open_engine
from arus.follower import tables
from arus.follower.applier import Applier
from arus.follower.audits.audits import Audits
from arus.follower.audits.ledger import Ledger
from arus.follower.hand_over import HandOver, hand_over
from arus.follower.messages import Reader
from arus.follower.outcome import Inbound
from arus.follower.report import FollowerStatus, Scope, read_follower
from arus.follower.requests import Patience, ask
from arus.follower.rows import Copy
from arus.follower.store import Store
from arus.follower.vessels import VesselState
from arus.outbox.tables import define
from arus.protocol.digests import SetDigest, row_hash
from arus.protocol.encoding import encode
from arus.protocol.messages import Verdict
from arus.protocol.times import iso, now_ms
from arus.protocol.topics import TopicTree
from arus.registry import Registry
from tests.support.ship_model import ENTITIES, ShipModel
from tests.support.waiting import eventually

#: The topics, and the entities, that the follower here knows.
TOPICS = ("crew", "equipment")


class Base(DeclarativeBase):
    metadata = MetaData()


class Crew(Base):
    __tablename__ = "crew"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]
    name: Mapped[str]
    #: Vessels send it only after they were upgraded.
    rank: Mapped[str | None] = mapped_column(Enum("master", "mate", native_enum=False))


class Equipment(Base):
    __tablename__ = "equipment"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]
    name: Mapped[str]


class RowSchema(Schema):
    id = fields.String()
    version = fields.Integer()
    name = fields.String()


class CrewSchema(RowSchema):
    rank = fields.String()


define(Base.metadata)
tables.define(Base.metadata)


class Coast:
    """A follower's database, and the vessels that it follows. The tables here lack most of the vessels' fields."""

    def __init__(
        self, path: Path, *names: str, entities: tuple[str, ...] = TOPICS, url: str | None = None
    ) -> None:
        self.registry = Registry()
        models: dict[str, tuple[type[Any], Schema]] = {
            "crew": (Crew, CrewSchema()),
            "equipment": (Equipment, RowSchema()),
        }
        for entity in entities:
            model, schema = models[entity]
            self.registry.add(model, entity, topic=entity, qos=1, schema=schema, version="version")
        self.engine = open_engine(url or f"sqlite:///{path}/shore.db")
        Base.metadata.create_all(self.engine)
        self.ships = {name: ShipModel(name) for name in names}
        #: The fields over which each vessel was asked for digests, by entity.
        self.selections: dict[str, dict[str, list[str]]] = {}
        #: The entities that each vessel has; all if it is not in here.
        self.aboard: dict[str, tuple[str, ...]] = {}
        #: Items of catch-ups that were sent.
        self.items = 0
        self._clock = now_ms()
        self._ids = itertools.count()
        self.start()

    def start(self) -> None:
        """Begin from the database alone."""
        self.connection = self.engine.connect()
        copies = {one.entity: Copy(one) for one in self.registry}
        self.copies = copies
        followed = {one.followed.topic: one.followed for one in copies.values()}
        self.ledger = Ledger(self.connection)
        reader = Reader("p", followed)
        store = Store(self.connection, followed.values())
        self.applier = Applier(self.connection, store, copies, reader, "shore", self.ledger)
        self.audits = Audits(
            self.engine.url, self.connection, self.ledger, copies, nullcontext, store.refusals
        )

    def stop(self) -> None:
        self.audits.stop()
        self.connection.close()

    def close(self) -> None:
        self.stop()
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- vessels -------------------------------------------------------------------------------------

    def clone(self, name: str, other: str) -> None:
        """Set a vessel up from a copy of another one's database, as it is now."""
        self.ships[other] = copy.deepcopy(self.ships[name])
        self.ships[other].vessel_id = other
        for message in self.ships[other].log:
            message["vesselId"] = other

    def change(
        self,
        vessel_id: str,
        row_id: str,
        operation: str | None = None,
        topic: str = "crew",
        **row: Any,
    ) -> None:
        """Have a vessel change, create or delete a row."""
        self.take(topic, self.ships[vessel_id].log_change(topic, row, operation, row_id))

    def migrate(self, vessel_id: str, **values: Any) -> None:
        """Have a vessel's crew gain fields, by a migration that its log does not know of."""
        for (topic, _), row in self.ships[vessel_id].rows.items():
            if topic == "crew":
                row.update(values)

    def drop(self, vessel_id: str, *names: str) -> None:
        """Have a vessel's crew lose fields."""
        for (topic, _), row in self.ships[vessel_id].rows.items():
            for name in names if topic == "crew" else ():
                row.pop(name, None)

    def status(self, vessel_id: str, *, online: bool = True) -> None:
        self.take("system/status", self.ships[vessel_id].status_document(online=online))

    def take(self, topic: str, document: Mapping[str, Any], *, retain: bool = False) -> None:
        outcome = self.applier.apply([Inbound(f"p/{topic}", orjson.dumps(document), retain)])
        self.audits.heard(outcome.digests)
        for vessel_id, entity, row_id in outcome.repaired:
            self.audits.repaired(vessel_id, entity, [row_id])
        for vessel_id, entity in outcome.doubted:
            self.audits.doubted(vessel_id, entity)
        for vessel_id in outcome.questioned:
            self.audits.questioned(vessel_id)

    def digest(self, vessel_id: str) -> dict[str, Any]:
        """What a vessel publishes about its tables."""
        ship = self.ships[vessel_id]
        entities = {}
        for topic in self.aboard.get(vessel_id, TOPICS):
            rows = {row_id: row for (of, row_id), row in ship.rows.items() if of == topic}
            known = sorted(
                {key for row in rows.values() for key in row} or {"id", "version", "name"}
            )
            told = {"topic": topic, "lastSeq": ship.heads.get(topic, 0), "fields": known}
            told |= {"count": len(rows), **_digest(rows, known)}
            if chosen := self.selections.get(vessel_id, {}).get(ENTITIES[topic]):
                told["partial"] = [{"fields": chosen, **_digest(rows, chosen)}]
            entities[ENTITIES[topic]] = told
        return {
            "type": "digest", "vesselId": vessel_id, "epoch": ship.epoch, "seq": ship.seq,
            "timestamp": f"{iso(now_ms())}-{next(self._ids)}", "entities": entities,
        }  # fmt: skip

    # -- the follower --------------------------------------------------------------------------------

    def vessel(self, vessel_id: str) -> VesselState:
        return self.applier.vessels[vessel_id]

    def exchange(self, rounds: int = 6) -> None:
        """Have the follower ask, and the vessels answer."""
        for _ in range(rounds):
            self._clock += 10_000_000
            for vessel in list(self.applier.vessels.values()):
                requests = ask(vessel, self._clock, Patience(), lambda: f"r{next(self._ids)}")
                for request in requests if vessel.online else []:
                    self.answer(orjson.loads(encode(request)))

    def answer(self, request: Mapping[str, Any]) -> None:
        """Have a vessel answer a request."""
        vessel_id = request["vesselId"]
        if vessel_id not in self.ships:
            return
        if request.get("mode") == "digest":
            self.selections.setdefault(vessel_id, {}).update(request.get("fields") or {})
            self.take("system/digest", self.digest(vessel_id))
            return
        for topic, messages in self.ships[vessel_id].answers_to(request):
            if topic in self.aboard.get(vessel_id, TOPICS):
                for message in messages:
                    self.items += message["type"] == "catchup"
                    self.take(f"catchup/{topic}", message)

    def join(self, *vessel_ids: str) -> None:
        """Have vessels come online, and the follower fetch what it misses."""
        for vessel_id in vessel_ids or self.ships:
            self.status(vessel_id)
        self.exchange()

    def audit(self, vessel_id: str) -> Verdict:
        """Have a vessel audited once; return the verdict. Nothing is repaired yet."""
        self.vessel(vessel_id).audit = None
        self.status(vessel_id)
        self.take("system/digest", self.digest(vessel_id))

        def verdict() -> Verdict | None:
            self._hurry()
            for request in self.audits.step(list(self.applier.vessels.values())):
                self.answer(orjson.loads(encode(request)))
            vessel = self.vessel(vessel_id)
            if vessel.audit is not None and vessel.audit.seq < self.ships[vessel_id].seq:
                return None  # on an earlier digest, whose rows were still being compared
            if vessel.audit is None and (vessel.is_sweeping or not vessel.caught_up):
                self.exchange(1)
            return vessel.audit

        found = eventually(verdict, 5, message="a verdict")
        assert found is not None
        return found

    def audit_until_equal(self, vessel_id: str, rounds: int = 8) -> Verdict:
        """Have a vessel audited, and what differs repaired, until it is equal or that does not help."""
        verdict = self.audit(vessel_id)
        for _ in range(rounds):
            if verdict.equal:
                break
            self.exchange(2)
            self._hurry()
            self.audits.step(list(self.applier.vessels.values()))
            verdict = self.audit(vessel_id)
        return verdict

    def hand_over(self, giver: str, receiver: str, entity: str | None = None) -> HandOver:
        """Hand rows over while no follower runs."""
        self.stop()
        with self.engine.connect() as connection:
            done = hand_over(connection, giver, receiver, entity, self.copies)
        self.start()
        return done

    def told(self) -> FollowerStatus:
        return read_follower(
            self.connection, "shore", Scope(TopicTree("vessel/sync")), following=True
        )

    def execute(self, statement: str, **values: Any) -> None:
        """Change the database behind the follower's back."""
        self.connection.execute(text(statement), values)

    def rows(self) -> dict[tuple[str, str], tuple[Any, Any]]:
        """The rows of all tables: version and name by topic and id."""
        return {
            (topic, row.id): (row.version, row.name)
            for topic in TOPICS
            for row in self.connection.execute(text(f"SELECT id, version, name FROM {topic}"))
        }

    def _hurry(self) -> None:
        """Let the pauses of the audits be over."""
        for case in self.audits._cases.values():
            case.not_before = case.repair_after = 0.0
        self.audits._shared.orphans._not_before = 0.0


def _digest(rows: Mapping[str, Mapping[str, Any]], chosen: list[str]) -> dict[str, Any]:
    made = SetDigest()
    for row_id, row in rows.items():
        made.add(row_id, row["version"], row_hash(row, set(chosen)))
    return {"digest": made.digest, "buckets": made.buckets}
