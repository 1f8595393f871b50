"""Which models can be synchronised, and what is said of those that can't; the tree of errors."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

from arus import ReliableSync, errors
from arus.errors import (
    ArusError,
    NotInitialisedError,
    RegistrationError,
    SettingError,
    TopicError,
)
from arus.protocol.rows import encode_row
from arus.registry import Registry


class Base(DeclarativeBase):
    pass


class Ship(Base):
    __tablename__ = "ship"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]


class Fleet(Base):
    __tablename__ = "fleet"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]
    flagship_id: Mapped[str | None] = mapped_column(ForeignKey("ship.id"))
    flagship: Mapped[Ship | None] = relationship()


class Tanker(Ship):
    """Inherits from a registered class."""


class Trawler(Ship):
    __tablename__ = "trawler"
    id: Mapped[str] = mapped_column(ForeignKey("ship.id"), primary_key=True)


class Canoe(Ship):
    """Has its rows in a table of its own."""

    __tablename__ = "canoe"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]
    __mapper_args__ = {"concrete": True}  # noqa: RUF012  # SQLAlchemy's own word


class Pair(Base):
    __tablename__ = "pair"
    one: Mapped[str] = mapped_column(primary_key=True)
    two: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]


class Bare(Base):
    __tablename__ = "bare"
    number: Mapped[int] = mapped_column("no", primary_key=True)
    revision: Mapped[int]


class Long(Base):
    __tablename__ = "long"
    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    version: Mapped[int]


class Unlimited(Base):
    __tablename__ = "unlimited"
    id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]


class Dated(Base):
    __tablename__ = "dated"
    id: Mapped[date] = mapped_column(primary_key=True)
    version: Mapped[int]


class Wrapped(TypeDecorator[str]):
    impl = String(36)
    cache_ok = True


class Decorated(Base):
    __tablename__ = "decorated"
    id: Mapped[str] = mapped_column(Wrapped, primary_key=True)
    version: Mapped[int]


class Named(Base):
    __tablename__ = "named"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[str]


class Plain(Base):
    __tablename__ = "plain"
    id: Mapped[int] = mapped_column(primary_key=True)
    real: Mapped[float]
    flag: Mapped[bool]
    text: Mapped[str]


RAW: dict[str, Any] = {name: fields.Raw() for name in ("id", "real", "flag", "text")}


class ShipSchema(Schema):
    id = fields.String()


class BareSchema(Schema):
    number = fields.Integer(data_key="no")


class KeylessSchema(Schema):
    name = fields.String()


class FleetSchema(Schema):
    id = fields.String()
    led_by = fields.Nested(ShipSchema, attribute="flagship")


class NestedSchema(Schema):
    """What it dumps is a part of the row itself: a JSON document, for example."""

    id = fields.String()
    document = fields.Nested(KeylessSchema)


def register(model: type[Any], entity: str = "ships", **changed: Any) -> Registry:
    registry = Registry()
    registry.add(model, entity, **{**OPTIONS, **changed})
    return registry


OPTIONS: dict[str, Any] = {"topic": "ships", "qos": 1, "schema": ShipSchema, "version": "version"}


def test_a_registration_knows_its_rows() -> None:
    registry = register(Ship)
    known = registry.of_entity("ships")
    assert known
    assert known is registry.of_model(Ship)
    assert known is registry.of_model(Tanker)
    assert list(registry) == [known]
    row = Ship(id="a", version=1)
    assert (known.row_id(row), known.serialise(row)) == ("a", b'{"id":"a"}')
    assert registry.of_model(Pair) is None
    assert registry.of_entity("pairs") is None


def test_a_nested_schema_may_dump_a_part_of_the_row() -> None:
    assert register(Ship, schema=NestedSchema).of_entity("ships")


def test_key_and_version_may_have_other_names() -> None:
    known = register(Bare, version="revision", schema=BareSchema).of_model(Bare)
    assert known
    assert (known.key, known.version) == ("number", "revision")
    assert known.row_id(Bare(number=7)) == "7"


def test_the_log_keeps_the_versions_of_a_model_without_a_version() -> None:
    kept = register(Bare, schema=BareSchema).of_model(Bare)
    told = register(Named, version=None).of_model(Named)
    assert kept
    assert told
    assert (kept.version, told.version) == (None, None)


def test_a_text_key_of_no_declared_length_is_taken() -> None:
    assert register(Unlimited).of_model(Unlimited)


def test_a_relationship_may_name_a_class_that_is_defined_after_the_registration() -> None:
    class Later(DeclarativeBase):
        pass

    class Master(Later):
        __tablename__ = "master"
        id: Mapped[str] = mapped_column(String(36), primary_key=True)
        version: Mapped[int]
        voyages: Mapped[list[Any]] = relationship("Voyage")

    sync = ReliableSync()
    sync.register(Master, "masters", schema=NestedSchema)
    app = Flask("later")
    app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://", LOCAL_MODE="true")
    db = SQLAlchemy(app, model_class=Later)
    sync.init_app(app, db)

    class Voyage(Later):
        __tablename__ = "voyage"
        id: Mapped[str] = mapped_column(String(36), primary_key=True)
        master_id: Mapped[str] = mapped_column(ForeignKey("master.id"))

    assert Master(id="a", voyages=[Voyage(id="b")]).voyages


@pytest.mark.parametrize(
    ("model", "changed", "words"),
    [
        (Pair, {}, "Pair needs a primary key of one column"),
        (Bare, {"version": "revison"}, "Bare has no attribute 'revison' for its version"),
        (Long, {}, "may have 200 characters; ids in messages have up to 64"),
        (Dated, {}, "is a Date; ids in messages are texts, integers or UUIDs: use such a type"),
        (Decorated, {}, "or give the type decorator one as its python_type"),
        (Named, {}, "'version', is not an integer column"),
        (Ship, {"schema": KeylessSchema}, "does not dump the primary key, 'id'"),
        (Fleet, {"schema": FleetSchema}, "dumps 'led_by' from other rows"),
        (Ship, {"schema": object()}, "is not a marshmallow schema"),
        (Ship, {"qos": 0}, "ships: qos is 0; a change is sent at 1 or 2"),
        (Ship, {"qos": 3}, "ships: qos is 3"),
        (Ship, {"entity": "x" * 65}, "up to 64 characters"),
        (Ship, {"entity": ""}, "up to 64 characters"),
        (Ship, {"topic": "x" * 129}, "its topic up to 128"),
    ],
)
def test_what_cannot_be_synchronised_is_refused(
    model: type[Any], changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(RegistrationError, match=words):
        register(model, **changed)


@pytest.mark.parametrize("topic", ["", "a/#", "+"])
def test_a_topic_that_nothing_can_be_published_to_is_refused(topic: str) -> None:
    with pytest.raises(TopicError):
        register(Ship, topic=topic)


def test_one_entity_is_one_model_and_the_other_way_round() -> None:
    registry = register(Ship)
    registry.add(Ship, "ships", **{**OPTIONS, "qos": 2})
    known = registry.of_model(Ship)
    assert known
    assert known.qos == 2, "registering the same again changes how"
    with pytest.raises(RegistrationError, match="entity 'ships' is already Ship"):
        registry.add(Bare, "ships", **{**OPTIONS, "version": "revision", "schema": BareSchema})
    with pytest.raises(RegistrationError, match="Ship is already registered as 'ships'"):
        registry.add(Ship, "boats", **OPTIONS)
    assert len(list(registry)) == 1


@pytest.mark.parametrize("order", [(Ship, Tanker), (Tanker, Ship), (Ship, Trawler)])
def test_a_class_and_one_that_inherits_its_rows_are_not_both_registered(order: Any) -> None:
    registry = Registry()
    registry.add(order[0], "first", **OPTIONS)
    with pytest.raises(RegistrationError, match=r"Ship.* have rows in common"):
        registry.add(order[1], "second", **OPTIONS)
    assert [one.entity for one in registry] == ["first"]


@pytest.mark.parametrize("order", [(Tanker, Trawler), (Ship, Canoe), (Canoe, Ship)])
def test_classes_without_a_common_row_may_inherit_from_one(order: Any) -> None:
    registry = Registry()
    registry.add(order[0], "first", **OPTIONS)
    registry.add(order[1], "second", **OPTIONS)
    assert [one.entity for one in registry] == ["first", "second"]


def test_a_class_with_a_table_of_its_own_is_not_registered_with_its_base() -> None:
    registry = register(Ship)
    assert registry.of_model(Tanker) is registry.of_model(Ship)
    assert registry.of_model(Canoe) is None
    registry.add(Canoe, "canoes", **OPTIONS)
    assert registry.of_model(Canoe) is registry.of_entity("canoes")


def test_a_value_that_a_schema_dumps_as_it_is_has_the_type_that_the_database_returns() -> None:
    registry = register(Plain, "plains", schema=Schema.from_dict(RAW), version=None)
    registration = registry.of_entity("plains")
    assert registration is not None
    given: dict[str, Any] = {"id": True, "real": 2, "flag": 0, "text": 5}
    assert registration.serialise(Plain(**given)) == encode_row(
        {"id": 1, "real": 2.0, "flag": False, "text": "5"}
    )
    given = {"id": "7", "real": Decimal("2.50"), "flag": True, "text": None}
    assert registration.serialise(Plain(**given)) == encode_row(
        {"id": 7, "real": 2.5, "flag": True, "text": None}
    )
    given = {"id": 2.5, "real": "x", "flag": 2, "text": {"a": 1}}
    assert registration.serialise(Plain(**given)) == encode_row(given)


def test_a_model_needs_a_schema() -> None:
    with pytest.raises(RegistrationError, match="ships needs a marshmallow schema"):
        ReliableSync().register(Ship, "ships")


def test_an_app_without_the_sync_is_told_so() -> None:
    sync = ReliableSync()
    with pytest.raises(NotInitialisedError, match=r"call sync.init_app\(app, db\) first"):
        sync.runtime().status()
    app = Flask("bare")
    with app.app_context(), pytest.raises(NotInitialisedError):
        sync.runtime().status()
    with pytest.raises(RegistrationError, match="initialise Flask-SQLAlchemy"):
        sync.init_app(app)


def test_all_errors_are_one_tree_and_say_something() -> None:
    found = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert len(found) > 10
    for error in found:
        assert issubclass(error, ArusError)
        drawn = re.findall(rf"^ *[│├└─ ]*{error.__name__}\b", errors.__doc__ or "", re.MULTILINE)
        assert len(drawn) == 1, f"{error.__name__} is in the tree that the module shows"
    assert str(NotInitialisedError()) == (NotInitialisedError.__doc__ or "").partition("\n")[0]
    assert str(SettingError("A", "b", "c")) == "A='b' is not accepted; it takes c"


@pytest.mark.parametrize("priority", [0, 10, -1, 1.5, "1", True])
def test_a_priority_is_from_1_to_9(priority: Any) -> None:
    with pytest.raises(RegistrationError, match=r"priority is .*from 1 .sent first. to 9"):
        register(Ship, priority=priority)


def test_a_topic_has_the_priority_of_its_most_urgent_entity() -> None:
    registry = register(Ship, topic="both", priority=7)
    assert registry.priorities().of("both") == 7
    options = {**OPTIONS, "version": "revision", "schema": BareSchema}
    registry.add(Bare, "bares", **{**options, "topic": "both", "qos": 2})
    assert registry.priorities().of("both") == 1
    assert registry.priorities().urgent == {"both"}
    assert registry.priorities().of("another") == 5
