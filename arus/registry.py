"""The synchronised models, and how each appears in messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

from marshmallow import Schema as MarshmallowSchema
from marshmallow.fields import Raw
from msgspec import Struct, field
from sqlalchemy import Column, ColumnElement, Integer, Uuid, inspect
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import ColumnProperty, Mapper, RelationshipProperty
from sqlalchemy.types import TypeDecorator

from .errors import RegistrationError
from .protocol.rows import MAX_ID, TEXTS, encode_row, text_of, typed_value
from .protocol.topics import validate_name
from .row_dump import RowDump

#: Lengths of the change log's columns, in characters.
MAX_ENTITY = 64
MAX_TOPIC = 128
#: Types of primary keys: their values are written as texts in messages, and read again.
_KEYS = frozenset({str, int, UUID})
#: Types whose values are in JSON as they are.
_PLAIN = frozenset({str, int, float, bool, dict, list})
_SCALARS = frozenset({str, int, float, bool})
#: The attribute with a model's version, unless another one is named.
VERSION = "version"
#: The key of the version in the placeholder for a row that can't be sent.
MERE_VERSION = "version"
#: Priorities: the lower ones are sent first. Changes of the first are also dropped last, and sent when the data budget is
#: spent.
URGENT, ORDINARY, LOWEST = 1, 5, 9


class Schema(Protocol):
    """The part of a marshmallow schema that is used."""

    def dump(self, obj: Any) -> Any:
        """Return `obj` as plain data."""


class Registration(Struct, frozen=True):
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
    #: Attribute with the row's version. None for a model without one: the log keeps the versions of its rows.
    version: str | None
    #: Dumps rows as the schema does.
    dump: Callable[[Any], Any]
    #: From `URGENT` to `LOWEST`.
    priority: int = ORDINARY
    #: Keys of numbers that the schema dumps as text, but refuses to load if they are not finite.
    number_texts: tuple[str, ...] = ()
    #: Keys of columns whose values are of types that JSON does not have.
    text_keys: tuple[str, ...] = ()
    #: Keys of plain values that the schema dumps as they are, and the types in which the database returns them.
    raw_types: tuple[tuple[str, type[Any]], ...] = ()

    def row_id(self, row: Any) -> str:
        """Return the primary key of `row` as it is written in messages."""
        return str(getattr(row, self.key))

    def typed_key(self, row_id: str) -> Any:
        """Return the primary key that is written in messages as `row_id`.

        :raises ValueError: no row can have this key.
        """
        (column,) = inspect(self.model).primary_key
        return column.type.python_type(row_id)

    def typed_value(self, attribute: str, value: Any) -> Any:
        """Return a value that the schema has loaded for an attribute, as the type of its column.

        :raises ValueError: it has no such form.
        """
        column = column_of(inspect(self.model), attribute)
        kind = _python_type(column) if column is not None else object
        return value if kind in _PLAIN else typed_value(kind, value)

    @property
    def id_key(self) -> str:
        """The key of the row's id in `data`."""
        for name, told in getattr(self.schema, "fields", {}).items():
            if (told.attribute or name) == self.key:
                return str(told.data_key or name)
        return self.key

    def serialise(self, row: Any) -> bytes:
        """Return `row` as JSON; if the schema or the encoder raises, the caller quarantines the change.

        This is the only place where a row is encoded: a row that can't be encoded at the commit can't be sent by a
        catch-up or a retry either, and has no digest.

        :raises ValueError: raised by `encode_row`, or a number that the schema dumps as text is not finite.
        :raises TypeError: raised by `encode_row`.
        """
        try:
            data = self.dump(row)
        except InvalidRequestError:
            if not _load_deferred(row):
                raise
            data = self.dump(row)
        for key, kind in self.raw_types:
            value = data.get(key)
            if value is not None and type(value) is not kind:
                data[key] = _as_returned(value, kind)
        for key in self.text_keys:
            value = data.get(key)
            if isinstance(value, Decimal) and not value.is_finite():
                raise ValueError(f"{key} is {value}, and JSON has no such number")
            if isinstance(value, TEXTS):
                data[key] = text_of(value)
        for key in self.number_texts:
            text = data.get(key)
            if isinstance(text, str) and not text.lstrip("-")[:1].isdigit():
                raise ValueError(f"{key} is {text}, and the schema loads no such number")
        return encode_row(data)


def loaded_value(row: Any, attribute: str) -> Any:
    """Return the value of a column's attribute, also of one that raises on access."""
    try:
        return getattr(row, attribute)
    except InvalidRequestError:
        if not _load_deferred(row):
            raise
        return getattr(row, attribute)


def _load_deferred(row: Any) -> bool:
    """Load the columns that a row has not loaded, also those that raise on access (`raiseload`).

    :returns: whether there were any.
    """
    state = inspect(row)
    names = state.unloaded.intersection(state.mapper.column_attrs.keys())
    if not names or not state.persistent:
        return False
    with state.session.no_autoflush:
        state.session.refresh(row, names)
    return True


class Priorities(Struct, frozen=True):
    """The priorities of topics: the order in which they are sent while there is a queue."""

    #: Those that differ from `ORDINARY`, by topic under the prefix.
    by_topic: Mapping[str, int] = field(default_factory=dict)

    def of(self, topic: str) -> int:
        """Return a topic's priority."""
        return self.by_topic.get(topic, ORDINARY)

    @property
    def urgent(self) -> frozenset[str]:
        """The topics whose changes are sent first, and dropped last."""
        return frozenset(topic for topic, each in self.by_topic.items() if each == URGENT)


class Registry(Struct):
    """The registered models, by class and by entity."""

    _by_model: dict[type[Any], Registration] = field(default_factory=dict)
    _by_entity: dict[str, Registration] = field(default_factory=dict)
    #: What is known of classes that are not registered themselves.
    _of_subclass: dict[type[Any], Registration | None] = field(default_factory=dict)
    #: Raised by each registration.
    revision: int = 0

    def add(
        self,
        model: type[Any],
        entity: str,
        *,
        topic: str,
        qos: int,
        schema: Any,
        version: str | None,
        priority: int | None = None,
    ) -> Registration:
        """Register `model`.

        :param schema: a marshmallow schema, or its class.
        :param version: the attribute with the version; None if the log is to keep the versions. A model without an
            attribute `VERSION` may be registered with that name: the log keeps its versions too.
        :raises RegistrationError: the model or an argument can't be used, or another model has the entity; it says why.
        :raises TopicError: no message can be published to the topic.
        """
        mapper: Mapper[Any] = inspect(model)
        keys = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
        if len(keys) != 1:
            raise RegistrationError(f"{model.__name__} needs a primary key of one column")
        if _bind_key(mapper) is not None:
            raise RegistrationError(
                f"{model.__name__} is in another database ({_bind_key(mapper)!r}) than the change log:"
                " row and entry could not be committed together"
            )
        version = _version(mapper, version)
        _check_key(mapper)
        schema = schema() if isinstance(schema, type) else schema
        _check_schema(mapper, schema, entity, keys[0])
        self._check_free(model, entity)
        _check_names(entity, topic, qos)
        registration = Registration(
            model=model,
            entity=entity,
            topic=validate_name(topic),
            qos=qos,
            schema=schema,
            key=keys[0],
            version=version,
            priority=_priority(entity, qos, priority),
            dump=RowDump(schema),
            number_texts=_number_texts(schema),
            text_keys=_text_keys(mapper, schema),
            raw_types=_raw_types(mapper, schema),
        )
        self._add(registration)
        return registration

    def _add(self, registration: Registration) -> None:
        self._by_model[registration.model] = self._by_entity[registration.entity] = registration
        self._of_subclass.clear()
        self.revision += 1

    def _check_free(self, model: type[Any], entity: str) -> None:
        known = self._by_entity.get(entity)
        if known is not None and known.model is not model:
            raise RegistrationError(f"entity {entity!r} is already {known.model.__name__}")
        registered = self._by_model.get(model)
        if registered is not None and registered.entity != entity:
            raise RegistrationError(
                f"{model.__name__} is already registered as {registered.entity!r}"
            )
        for other in self:
            if other.model is not model and _shares_rows(inspect(model), inspect(other.model)):
                raise RegistrationError(
                    f"{model.__name__} and {other.model.__name__}, registered as {other.entity!r}, have rows in common:"
                    " a row is of one entity. Register the base class alone, or only classes without a common row"
                )

    def of_model(self, model: type[Any]) -> Registration | None:
        """Return the registration of `model`, or of its nearest registered base class that has the same rows."""
        exact = self._by_model.get(model)
        if exact is not None:
            return exact
        if model not in self._of_subclass:
            base = next((base for base in model.__mro__ if base in self._by_model), None)
            shares = base is not None and _shares_rows(inspect(model), inspect(base))
            self._of_subclass[model] = self._by_model[base] if base is not None and shares else None
        return self._of_subclass[model]

    def of_entity(self, entity: str) -> Registration | None:
        """Return the registration of `entity`."""
        return self._by_entity.get(entity)

    def priorities(self) -> Priorities:
        """Return the priorities of the topics: that of its most urgent entity for a topic of several."""
        found: dict[str, int] = {}
        for each in self:
            found[each.topic] = min(each.priority, found.get(each.topic, LOWEST))
        return Priorities(found)

    def __iter__(self) -> Iterator[Registration]:
        return iter(self._by_entity.values())


def _shares_rows(one: Mapper[Any], other: Mapper[Any]) -> bool:
    """Whether rows of a model are rows of the other too, because it inherits from that one."""
    return (one.isa(other) or other.isa(one)) and not set(one.tables).isdisjoint(other.tables)


def column_of(mapper: Mapper[Any], attribute: str) -> Column[Any] | None:
    """Return the column of an attribute; None if it has none of its own.

    Unlike `mapper.attrs`, this does not configure the mappers: a relationship may name a class that is defined later.
    """
    prop = mapper.get_property(attribute) if mapper.has_property(attribute) else None
    column = prop.columns[0] if isinstance(prop, ColumnProperty) else None
    return column if isinstance(column, Column) else None


def mere_row(registration: Registration | None, row_id: str, version: int) -> bytes:
    """Return the placeholder for a row that can't be sent: a receiver refuses it, and knows that the row is missing.

    :param registration: None if the entity is not registered (any more).
    """
    if registration is None:
        return encode_row({"id": row_id, MERE_VERSION: version})
    (column,) = inspect(registration.model).primary_key
    is_number = isinstance(column.type, Integer) and row_id.lstrip("-").isdecimal()
    key = int(row_id) if is_number else row_id
    return encode_row({registration.id_key: key, MERE_VERSION: version})


def _version(mapper: Mapper[Any], version: str | None) -> str | None:
    """Return the attribute with a model's version; None if the log keeps it."""
    if version is None or (version == VERSION and not mapper.has_property(version)):
        return None
    name = mapper.class_.__name__
    if not mapper.has_property(version):
        raise RegistrationError(
            f"{name} has no attribute {version!r} for its version: name the right one, or pass version=None"
            " to let the log keep the versions"
        )
    column = column_of(mapper, version)
    if column is None or not isinstance(column.type, Integer):
        raise RegistrationError(
            f"the version of {name}, {version!r}, is not an integer column: receivers compare versions by size."
            " Name another attribute, or pass version=None to let the log keep the versions"
        )
    return version


def _check_key(mapper: Mapper[Any]) -> None:
    name = mapper.class_.__name__
    (key,) = mapper.primary_key
    kind = _python_type(key)
    if kind not in _KEYS:
        hint = ", or give the type decorator one as its python_type"
        raise RegistrationError(
            f"the primary key of {name} is a {type(key.type).__name__}; ids in messages are texts, integers or UUIDs:"
            f" use such a type{hint if isinstance(key.type, TypeDecorator) else ''}"
        )
    length = getattr(key.type, "length", None)
    # Of a text without a declared length, a row with a longer id is quarantined.
    if kind is str and not isinstance(key.type, Uuid) and (length or 0) > MAX_ID:
        raise RegistrationError(
            f"the primary key of {name} may have {length} characters; ids in messages have up to {MAX_ID}:"
            f" give the column a type of at most String({MAX_ID})"
        )


def _check_schema(mapper: Mapper[Any], schema: Any, entity: str, key: str) -> None:
    if not isinstance(schema, MarshmallowSchema):
        raise RegistrationError(f"the schema of {entity} is not a marshmallow schema: {schema!r}")
    dumped = {field.attribute or name for name, field in schema.dump_fields.items()}
    if key not in dumped:
        raise RegistrationError(
            f"the schema of {entity} does not dump the primary key, {key!r}: add a field for it"
        )
    for name, dumped_by in schema.dump_fields.items():
        attribute = dumped_by.attribute or name
        if mapper.has_property(attribute) and isinstance(
            mapper.get_property(attribute), RelationshipProperty
        ):
            raise RegistrationError(
                f"the schema of {entity} dumps {name!r} from other rows, whose changes are not changes of this row:"
                " leave the field out (only or exclude) and register the other model"
            )


def _check_names(entity: str, topic: str, qos: int) -> None:
    if qos not in {1, 2}:
        raise RegistrationError(f"{entity}: qos is {qos!r}; a change is sent at 1 or 2")
    if not 0 < len(entity) <= MAX_ENTITY or len(topic) > MAX_TOPIC:
        raise RegistrationError(
            f"{entity!r} on {topic!r}: an entity's name may have up to {MAX_ENTITY} characters,"
            f" its topic up to {MAX_TOPIC}"
        )


def _priority(entity: str, qos: int, priority: object) -> int:
    """Return the priority that an entity gets."""
    if priority is None:
        return URGENT if qos == 2 else ORDINARY
    if type(priority) is not int or not URGENT <= priority <= LOWEST:
        raise RegistrationError(
            f"{entity}: priority is {priority!r}; it is a whole number from {URGENT} (sent first) to {LOWEST}"
        )
    return priority


def _number_texts(schema: Any) -> tuple[str, ...]:
    return tuple(
        field.data_key or name
        for name, field in getattr(schema, "fields", {}).items()
        if getattr(field, "as_string", False) and not getattr(field, "allow_nan", True)
    )


def _text_keys(mapper: Mapper[Any], schema: MarshmallowSchema) -> tuple[str, ...]:
    found = []
    for name, dumped_by in schema.dump_fields.items():
        column = column_of(mapper, dumped_by.attribute or name)
        if column is not None and _python_type(column) in TEXTS:
            found.append(str(dumped_by.data_key or name))
    return tuple(found)


def _raw_types(mapper: Mapper[Any], schema: MarshmallowSchema) -> tuple[tuple[str, type[Any]], ...]:
    found = []
    for name, dumped_by in schema.dump_fields.items():
        column = column_of(mapper, dumped_by.attribute or name)
        if column is None or type(dumped_by) is not Raw or isinstance(column.type, TypeDecorator):
            continue
        kind = _python_type(column)
        if kind in _SCALARS:
            found.append((str(dumped_by.data_key or name), kind))
    return tuple(found)


def _as_returned(value: Any, kind: type[Any]) -> Any:
    """Return a plain value in the type in which the database returns it: an object keeps the 2 that a Float was set to."""
    if type(value) not in _SCALARS and not isinstance(value, Decimal):
        return value
    try:
        returned = kind(value)
    except (ValueError, OverflowError):
        return value
    return returned if returned == value or str(returned) == str(value) else value


def _python_type(column: ColumnElement[Any]) -> Any:
    try:
        return column.type.python_type
    except NotImplementedError:
        return object


def _bind_key(mapper: Mapper[Any]) -> str | None:
    """Return the bind key of a model's database in Flask-SQLAlchemy; None for the default database."""
    metadata = getattr(mapper.local_table, "metadata", None)
    key: str | None = metadata.info.get("bind_key") if metadata is not None else None
    return key
