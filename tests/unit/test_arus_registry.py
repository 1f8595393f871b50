"""Which models can be synchronised, and what is said of those that can't; the tree of errors."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from marshmallow import Schema, fields
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from arus import ReliableSync, errors
from arus.errors import ArusError, NotInitialisedError, RegistrationError, SettingError, TopicError
from arus.registry import Registry


class Base(DeclarativeBase):
    pass


class Ship(Base):
    __tablename__ = "ship"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    version: Mapped[int]


class Tanker(Ship):
    """Inherits from a registered class."""


class Pair(Base):
    __tablename__ = "pair"
    one: Mapped[str] = mapped_column(primary_key=True)
    two: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]


class Bare(Base):
    __tablename__ = "bare"
    number: Mapped[int] = mapped_column("no", primary_key=True)
    revision: Mapped[int]


class ShipSchema(Schema):
    id = fields.String()


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


def test_key_and_version_may_have_other_names() -> None:
    known = register(Bare, version="revision").of_model(Bare)
    assert known
    assert (known.key, known.version) == ("number", "revision")
    assert known.row_id(Bare(number=7)) == "7"


@pytest.mark.parametrize(
    ("model", "changed", "words"),
    [
        (Pair, {}, "Pair needs a primary key of one column"),
        (Bare, {}, "Bare has no attribute 'version' for its version"),
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
        registry.add(Bare, "ships", **{**OPTIONS, "version": "revision"})
    with pytest.raises(RegistrationError, match="Ship is already registered as 'ships'"):
        registry.add(Ship, "boats", **OPTIONS)
    assert len(list(registry)) == 1


def test_a_model_needs_a_schema() -> None:
    with pytest.raises(RegistrationError, match="ships needs a marshmallow schema"):
        ReliableSync().register(Ship, "ships")


def test_an_app_without_the_sync_is_told_so() -> None:
    sync = ReliableSync()
    with pytest.raises(NotInitialisedError, match=r"call sync.init_app\(app, db\) first"):
        sync.status()
    app = Flask("bare")
    with app.app_context(), pytest.raises(NotInitialisedError):
        sync.status()
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
