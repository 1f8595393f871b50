"""Two applications in one process, bound to the same declarations, each with settings and a database of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask, current_app
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from arus import ReliableSync
from arus.errors import TopicError
from arus.inbound.handlers import Message
from arus.inbound.proposals import Proposal
from arus.testing import deliver, memory_broker, published

_BEGIN_LOG = sa.text("INSERT INTO arus_session (id, epoch, vessel_id) VALUES (1, 'e', :vessel)")


class Base(DeclarativeBase):
    pass


class Boat(Base):
    __tablename__ = "boat"
    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True)
    version: Mapped[int] = mapped_column()
    name: Mapped[str]
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's own word


class BoatSchema(Schema):
    id = fields.String(dump_only=True)
    version = fields.Integer(dump_only=True)
    name = fields.String(required=True)


class Fleet:
    """One declaration and the applications that are bound to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.db = SQLAlchemy(model_class=Base)
        self.sync = ReliableSync()
        self.sync.register(Boat, "boats", schema=BoatSchema)
        #: The application and the text of each message that a handler got.
        self.heard: list[tuple[str, str]] = []
        #: The application and the name of each boat that was proposed.
        self.checked: list[tuple[str, str]] = []
        self.apps: list[Flask] = []

    def hear(self, message: Message) -> None:
        self.heard.append((current_app.name, message.payload.decode()))

    def check(self, proposal: Proposal) -> None:
        self.checked.append((current_app.name, proposal.data["name"]))

    def bind(self, name: str, **settings: Any) -> Flask:
        app = Flask(name)
        app.config.update(
            {
                "SQLALCHEMY_DATABASE_URI": f"sqlite:///{self.directory}/{name}.sqlite",
                "LOCAL_MODE": "true",
                "VESSEL_ID": name,
                "MQTT_TOPIC_PREFIX": f"fleet/{name}",
                "TESTING": True,
                **settings,
            }
        )
        self.db.init_app(app)
        self.sync.init_app(app, self.db)
        with app.app_context():
            self.db.create_all()
            with self.db.engine.begin() as connection:  # what the first leader does
                connection.execute(_BEGIN_LOG, {"vessel": name})
        self.apps.append(app)
        return app

    def filters(self, app: Flask) -> set[str]:
        return set(self.sync.runtime(app).subscriptions.filters())

    def deliver(self, app: Flask, topic: str, payload: bytes) -> int:
        """Hand a message to the handlers of its topic, as an application's inbox does; return how many there were."""
        found = self.sync.runtime(app).subscriptions.of(topic)
        for subscription in found:
            with app.app_context():
                subscription.handler(Message(topic, payload))
        return len(found)

    def query(self, app: Flask, statement: str) -> list[Any]:
        with app.app_context(), self.db.engine.connect() as connection:
            return list(connection.execute(sa.text(statement)))

    def close(self) -> None:
        for app in self.apps:
            self.sync.stop(app)
            with app.app_context():
                self.db.engine.dispose()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def proposal(vessel_id: str, name: str) -> bytes:
    return orjson.dumps(
        {
            "type": "proposal",
            "proposalId": f"proposal-{name}",
            "vesselId": vessel_id,
            "entity": "boats",
            "operation": "create",
            "data": {"id": f"boat-{name}", "version": 1, "name": name},
            "version": 1,
            "baseVersion": 0,
            "timestamp": "2026-11-26T08:00:00.000Z",
            "origin": "shore",
        }
    )


def test_each_app_has_the_declared_topics_under_its_own_prefix(fleet: Fleet) -> None:
    fleet.sync.subscribe("{prefix}/+/orders")(fleet.hear)
    fleet.sync.subscribe("$share/crew/{prefix}/weather", qos=0)(fleet.hear)
    fleet.sync.accept("boats")(fleet.check)
    north, south = fleet.bind("north"), fleet.bind("south")

    assert fleet.sync.runtime(north).subscriptions.filters() == {
        "fleet/north/+/orders": 1,
        "$share/crew/fleet/north/weather": 0,
        "fleet/north/proposals/boats": 1,
    }
    assert fleet.filters(south) == {
        "fleet/south/+/orders",
        "$share/crew/fleet/south/weather",
        "fleet/south/proposals/boats",
    }
    assert fleet.deliver(north, "fleet/north/shore/orders", b"go north") == 1
    assert fleet.deliver(south, "fleet/south/shore/orders", b"go south") == 1
    assert fleet.deliver(south, "fleet/north/shore/orders", b"not yours") == 0
    assert fleet.heard == [("north", "go north"), ("south", "go south")]


def test_each_app_answers_the_proposals_for_its_own_rows(fleet: Fleet) -> None:
    fleet.sync.accept("boats")(fleet.check)
    north, south = fleet.bind("north"), fleet.bind("south")
    assert fleet.deliver(north, "fleet/north/proposals/boats", proposal("north", "Aurora")) == 1
    assert fleet.deliver(south, "fleet/south/proposals/boats", proposal("south", "Cruz")) == 1
    assert fleet.checked == [("north", "Aurora"), ("south", "Cruz")]
    assert fleet.query(north, "SELECT name FROM boat") == [("Aurora",)]
    assert fleet.query(south, "SELECT name FROM boat") == [("Cruz",)]
    # Each is logged where it was written, once.
    for app, name in ((north, "Aurora"), (south, "Cruz")):
        assert fleet.query(app, "SELECT row_id FROM arus_change") == [(f"boat-{name}",)]


def test_what_is_accepted_anew_replaces_the_check_in_each_app(fleet: Fleet) -> None:
    def never(proposal: Proposal) -> None:
        raise AssertionError(proposal)

    fleet.sync.accept("boats")(never)
    north = fleet.bind("north")
    fleet.sync.accept("boats")(fleet.check)
    assert fleet.filters(north) == {"fleet/north/proposals/boats"}
    assert fleet.deliver(north, "fleet/north/proposals/boats", proposal("north", "Aurora")) == 1
    assert fleet.checked == [("north", "Aurora")]


def test_a_handler_declared_after_binding_reaches_each_app_until_it_is_withdrawn(
    fleet: Fleet,
) -> None:
    north, south = fleet.bind("north"), fleet.bind("south")
    before = [fleet.sync.runtime(app).subscriptions.revision for app in (north, south)]
    fleet.sync.subscribe("{prefix}/orders")(fleet.hear)
    assert [fleet.filters(app) for app in (north, south)] == [
        {"fleet/north/orders"},
        {"fleet/south/orders"},
    ]
    fleet.sync.unsubscribe("{prefix}/orders")
    assert fleet.filters(north) == fleet.filters(south) == set()
    after = [fleet.sync.runtime(app).subscriptions.revision for app in (north, south)]
    assert after == [revision + 2 for revision in before], "the leaders' routers notice by it"


def test_a_handler_added_to_one_app_is_not_the_others(fleet: Fleet) -> None:
    north, south = fleet.bind("north"), fleet.bind("south")
    own = fleet.sync.runtime(north).subscriptions
    own.add("fleet/north/own", 1, fleet.hear)
    assert fleet.filters(north) == {"fleet/north/own"}
    assert fleet.filters(south) == set()
    with pytest.raises(TopicError, match="a filter begins with fleet/north/"):
        own.add("fleet/south/own", 1, fleet.hear)
    own.remove("fleet/north/own")
    assert fleet.filters(north) == set()


def test_a_filter_that_an_app_does_not_allow_stops_its_binding_or_is_logged(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.sync.subscribe("fleet/north/orders")(fleet.hear)
    north = fleet.bind("north")
    with pytest.raises(TopicError, match="begins with fleet/south/"):
        fleet.bind("south")
    with caplog.at_level(logging.ERROR, "arus"):
        fleet.sync.subscribe("fleet/west/orders")(fleet.hear)
        assert fleet.filters(north) == {"fleet/north/orders"}
        assert fleet.filters(north) == {"fleet/north/orders"}
    (said,) = caplog.messages
    assert "'fleet/west/orders' is not allowed: a filter begins with fleet/north/" in said


def test_changes_are_captured_by_the_declarations_of_the_app_in_whose_context_they_happen(
    fleet: Fleet,
) -> None:
    other = ReliableSync()  # the same model, declared a second time for other applications
    other.register(Boat, "ships", schema=BoatSchema)
    north = fleet.bind("north")
    with north.app_context():
        fleet.db.session.add(Boat(id="1", name="Aurora"))
        fleet.db.session.commit()
    assert fleet.query(north, "SELECT entity, row_id FROM arus_change") == [("boats", "1")]
    ashore = fleet.bind("ashore", LOCAL_MODE="false")
    with ashore.app_context():
        fleet.db.session.add(Boat(id="2", name="Borealis"))
        fleet.db.session.commit()
    assert fleet.query(ashore, "SELECT * FROM arus_change") == []


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"MQTT_TOPIC_PREFIX": "fleet/{vessel_id}"}])
def test_two_vessels_at_one_broker_each_publish_and_hear_under_their_own_prefix(
    fleet: Fleet, settings: dict[str, str]
) -> None:
    fleet.sync.subscribe("{prefix}/+/orders")(fleet.hear)
    fleet.sync.accept("boats")(fleet.check)
    north, south = fleet.bind("north", **settings), fleet.bind("south", **settings)
    with memory_broker(north) as broker, memory_broker(south, broker):
        for app in (north, south):
            deliver(app)
        for name in ("north", "south"):
            broker.publish(f"fleet/{name}/shore/orders", f"go {name}".encode())
            broker.publish(f"fleet/{name}/proposals/boats", proposal(name, f"of the {name}"))
        for app in (north, south):
            deliver(app)  # the handlers return,
            deliver(app)  # and what they have committed is published
        assert fleet.heard == [("north", "go north"), ("south", "go south")]
        assert fleet.checked == [("north", "of the north"), ("south", "of the south")]
        for app in (north, south):
            (message,) = published(app)
            assert message.topic == f"fleet/{app.name}/boats"
            assert message.payload["data"]["name"] == f"of the {app.name}"
            assert message.payload["vesselId"] == app.name
            assert fleet.sync.runtime(app).status().vessel_id == app.name, "without its context"
        with north.app_context():
            assert fleet.sync.runtime(south).status().vessel_id == "south", "in the other's"


def test_the_id_in_the_prefix_may_be_known_to_the_database_alone(fleet: Fleet) -> None:
    fleet.sync.subscribe("{prefix}/orders")(fleet.hear)
    app = fleet.bind("north", MQTT_TOPIC_PREFIX="fleet/{vessel_id}/sync", VESSEL_ID="")
    with pytest.raises(TopicError, match="a filter begins with"):
        fleet.sync.runtime(app).subscriptions.add("fleet/south/sync/own", 1, fleet.hear)
    with memory_broker(app) as broker:
        with app.app_context():
            fleet.db.session.add(Boat(id="1", name="Aurora"))
            fleet.db.session.commit()
        (change,) = deliver(app)
        assert change.topic == "fleet/north/sync/boats"
        broker.publish("fleet/north/sync/orders", b"go north")
        broker.publish("fleet/south/sync/orders", b"go south")
        deliver(app)
    assert fleet.heard == [("north", "go north")]
    assert fleet.filters(app) == {"fleet/north/sync/orders"}


def test_a_dead_letter_is_replayed_by_a_process_that_has_not_led(fleet: Fleet) -> None:
    fleet.sync.subscribe("{prefix}/orders")(fleet.hear)
    app = fleet.bind("north", MQTT_TOPIC_PREFIX="fleet/{vessel_id}/sync", VESSEL_ID="")
    bound = fleet.sync.runtime(app)
    letter = (
        "INSERT INTO arus_parked (topic, payload, topic_filter, reason, parked_at, attempts)"
        " VALUES ('fleet/north/sync/orders', x'676f', 'fleet/north/sync/orders', 'failed', 1, 1)"
    )
    with app.app_context():
        with fleet.db.engine.begin() as connection:
            connection.execute(sa.text(letter))
        (found,) = bound.dead_letters.recent()
        bound.dead_letters.replay(found.id)
    assert fleet.heard == [("north", "go")]
