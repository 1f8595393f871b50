"""Which models are synchronised, and how each is spoken of on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from sqlalchemy import Integer, inspect
from sqlalchemy.orm import Mapper

from .errors import RegistrationError
from .message import encode_row
from .topics import validate_name

#: What the columns of the change log hold, in characters.
MAX_ENTITY = 64
MAX_TOPIC = 128


class Schema(Protocol):
    """What is needed of a marshmallow schema."""

    def dump(self, obj: Any) -> Any:
        """Return `obj` as plain data."""


@dataclass(frozen=True, slots=True)
class Registration:
    """One synchronised model."""

    model: type[Any]
    #: Name of the entity in messages.
    entity: str
    #: Topic under the prefix.
    topic: str
    qos: int
    schema: Schema
    #: Attribute with the primary key.
    key: str
    #: Attribute with the row's version.
    version: str
    #: Keys of numbers that the schema dumps as text, and would not load where they are not finite.
    number_texts: tuple[str, ...] = ()

    def row_id(self, row: Any) -> str:
        """Return the primary key of `row` as it stands in messages."""
        return str(getattr(row, self.key))

    def typed_key(self, row_id: str) -> Any:
        """Return the primary key that stands in messages as `row_id`.

        :raises ValueError: no row can have it.
        """
        (column,) = inspect(self.model).primary_key
        return column.type.python_type(row_id)

    @property
    def id_key(self) -> str:
        """The key of the row's id in `data`."""
        for name, told in getattr(self.schema, "fields", {}).items():
            if (told.attribute or name) == self.key:
                return str(told.data_key or name)
        return self.key

    def serialise(self, row: Any) -> bytes:
        """Return `row` as JSON; whatever the schema or the encoder raises is the caller's to quarantine.

        The only place where a row is encoded: what can't be sent at the commit can't be sent by a catch-up or
        a retry either, and has no digest.

        :raises ValueError: `encode_row` does, or a number is not finite that the schema dumps as text.
        :raises TypeError: `encode_row` does.
        """
        data = self.schema.dump(row)
        for key in self.number_texts:
            text = data.get(key)
            if isinstance(text, str) and not text.lstrip("-")[:1].isdigit():
                raise ValueError(f"{key} is {text}, and the schema loads no such number")
        return encode_row(data)


@dataclass(slots=True)
class Registry:
    """The registered models, by class and by entity."""

    _by_model: dict[type[Any], Registration] = field(default_factory=dict)
    _by_entity: dict[str, Registration] = field(default_factory=dict)

    def add(
        self, model: type[Any], entity: str, *, topic: str, qos: int, schema: Any, version: str
    ) -> Registration:
        """Register `model`.

        :param schema: a marshmallow schema, or its class.
        :raises RegistrationError: the model has no single primary key or no version, the entity is
            taken by another model, the model by another entity, a name is too long, or `qos` is not
            1 or 2.
        :raises TopicError: no message can be published to the topic.
        """
        schema = schema() if isinstance(schema, type) else schema
        mapper: Mapper[Any] = inspect(model)
        keys = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
        if len(keys) != 1:
            raise RegistrationError(f"{model.__name__} needs a primary key of one column")
        if _bind_key(mapper) is not None:
            raise RegistrationError(
                f"{model.__name__} is in another database ({_bind_key(mapper)!r}) than the change log:"
                " row and entry could not be committed together"
            )
        if not mapper.has_property(version):
            raise RegistrationError(
                f"{model.__name__} has no attribute {version!r} for its version"
            )
        if qos not in {1, 2}:
            raise RegistrationError(f"{entity}: qos is {qos!r}; a change is sent at 1 or 2")
        known = self._by_entity.get(entity)
        if known is not None and known.model is not model:
            raise RegistrationError(f"entity {entity!r} is already {known.model.__name__}")
        registered = self._by_model.get(model)
        if registered is not None and registered.entity != entity:
            raise RegistrationError(
                f"{model.__name__} is already registered as {registered.entity!r}"
            )
        _check_lengths(entity, topic)
        registration = Registration(
            model=model,
            entity=entity,
            topic=validate_name(topic),
            qos=qos,
            schema=schema,
            key=keys[0],
            version=version,
            number_texts=_number_texts(schema),
        )
        self._by_model[model] = registration
        self._by_entity[entity] = registration
        return registration

    def of_model(self, model: type[Any]) -> Registration | None:
        """Return the registration of `model` or of the nearest class that it inherits from."""
        exact = self._by_model.get(model)
        if exact is not None:
            return exact
        return next(
            (self._by_model[base] for base in model.__mro__ if base in self._by_model), None
        )

    def of_entity(self, entity: str) -> Registration | None:
        """Return the registration of `entity`."""
        return self._by_entity.get(entity)

    def __iter__(self) -> Iterator[Registration]:
        return iter(self._by_entity.values())


def mere_row(registration: Registration | None, row_id: str, version: int) -> bytes:
    """Return what stands for a row that can't be sent: a receiver refuses it, and knows that it lacks the row.

    :param registration: None where the entity is not registered (any more).
    """
    if registration is None:
        return orjson.dumps({"id": row_id, "version": version})
    (column,) = inspect(registration.model).primary_key
    is_number = isinstance(column.type, Integer) and row_id.lstrip("-").isdecimal()
    key = int(row_id) if is_number else row_id
    return orjson.dumps({registration.id_key: key, "version": version})


def _check_lengths(entity: str, topic: str) -> None:
    if not 0 < len(entity) <= MAX_ENTITY or len(topic) > MAX_TOPIC:
        raise RegistrationError(
            f"{entity!r} on {topic!r}: an entity's name takes up to {MAX_ENTITY} characters,"
            f" its topic up to {MAX_TOPIC}"
        )


def _number_texts(schema: Any) -> tuple[str, ...]:
    return tuple(
        field.data_key or name
        for name, field in getattr(schema, "fields", {}).items()
        if getattr(field, "as_string", False) and not getattr(field, "allow_nan", True)
    )


def _bind_key(mapper: Mapper[Any]) -> str | None:
    """Return which of Flask-SQLAlchemy's databases a model is in; None for the first."""
    metadata = getattr(mapper.local_table, "metadata", None)
    key: str | None = metadata.info.get("bind_key") if metadata is not None else None
    return key
