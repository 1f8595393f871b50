"""The tables of the registered models, and the tables whose rows a database deletes or changes along with others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct, field
from sqlalchemy import Alias, Column, MetaData, Table, Update, UpdateBase, event, inspect
from sqlalchemy.exc import NoReferencedColumnError, NoReferencedTableError
from sqlalchemy.orm import Mapper
from sqlalchemy.sql.dml import ValuesBase

from arus.registry import Registration, Registry, column_of

#: Schema and name of a table; the schema is None for the default one.
TableName = tuple[str | None, str]

#: Of PostgreSQL and SQLite, unless they are told otherwise.
_DEFAULT_SCHEMAS = {"public", "main"}
_ACTIONS = {"CASCADE", "SET NULL", "SET DEFAULT"}


class Cascade(Struct, frozen=True):
    """A foreign key by which the deletion of a row, or its new key, deletes or changes rows of another table."""

    child: Table
    #: The child's columns, and in the same order the columns of the parent that they refer to.
    columns: tuple[Column[Any], ...]
    referred: tuple[Column[Any], ...]


class _Maps(Struct):
    registrations: dict[TableName, list[Registration]] = field(default_factory=dict)
    #: Of `ON DELETE`, and of `ON UPDATE`.
    cascades: dict[TableName, list[Cascade]] = field(default_factory=dict)
    updates: dict[TableName, list[Cascade]] = field(default_factory=dict)
    #: All foreign keys: `TRUNCATE ... CASCADE` follows each.
    references: dict[TableName, list[Cascade]] = field(default_factory=dict)
    #: By name in lower case, for SQL texts.
    entities: dict[str, list[tuple[str | None, str]]] = field(default_factory=dict)


class RegisteredTables:
    """The tables in a database that hold registered models. Follows later registrations and mappings."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._maps = _Maps()
        self._state = -1

    def of(self, table: Any) -> list[Registration]:
        """Return the registrations of models that have columns in a table."""
        return self._current().registrations.get(_name(table), [])

    def cascades(self, table: Any) -> list[Cascade]:
        """Return the foreign keys by which the deletion of a table's rows reaches registered rows."""
        return self._current().cascades.get(_name(table), [])

    def updates(self, table: Any) -> list[Cascade]:
        """Return the foreign keys by which a new value in a table's rows reaches registered rows."""
        return self._current().updates.get(_name(table), [])

    def entities(self, schema: str | None, name: str) -> set[str]:
        """Return the entities with columns in the table that a SQL text names.

        :param schema: None if the text names none; then the table of any schema is meant.
        """
        found = self._current().entities.get(name.lower(), [])
        return {
            entity
            for known, entity in found
            if schema is None or known is None or schema.lower() == known.lower()
        }

    def reached_from(
        self, schema: str | None, name: str, *, whatever_they_say: bool = False
    ) -> set[str]:
        """Return the entities whose rows may change when rows of the named table are deleted.

        :param whatever_they_say: by each foreign key, whatever it says of deletions.
        """
        maps = self._current()
        by = maps.references if whatever_they_say else maps.cascades
        found: set[str] = set()
        for known_schema, known in by:
            if known.lower() == name.lower() and (schema is None or schema == known_schema):
                found |= set(self._reached(by, (known_schema, known), set()))
        return found

    @property
    def state(self) -> int:
        """Grows with each registration and mapping."""
        return self._registry.revision + _mappings.configured

    def _reached(
        self, by: Mapping[TableName, list[Cascade]], name: TableName, seen: set[TableName]
    ) -> Iterator[str]:
        if name in seen:
            return
        seen.add(name)
        for cascade in by.get(name, []):
            child = _name(cascade.child)
            yield from (one.entity for one in self._maps.registrations.get(child, []))
            yield from self._reached(by, child, seen)

    def _current(self) -> _Maps:
        state = self.state
        if state != self._state:
            self._maps = _maps_of(self._registry)
            self._state = self.state  # building the maps may configure mappers
        return self._maps


class _Mappings:
    """Counts how often SQLAlchemy has configured mappers."""

    configured = 0

    def after_configured(self) -> None:
        self.configured += 1


_mappings = _Mappings()
event.listen(Mapper, "after_configured", _mappings.after_configured)


def table_of(statement: UpdateBase) -> Any:
    """Return the table that a statement writes to: one of several where the ORM has a statement for each."""
    told = statement._annotations
    return told.get("_emit_update_table", told.get("_emit_insert_table", statement.table))


def subject_of(statement: UpdateBase) -> Any:
    """Return the entity that a statement writes to; None if it names a table, though its conditions may name a model."""
    return statement.table._annotations.get("parententity")


def given_values(statement: ValuesBase) -> Mapping[Any, Any]:
    """Return the values that a statement itself gives, by column or its key; not those of its parameters."""
    # SQLAlchemy 2.0 keeps ordered values apart.
    ordered: Any = getattr(statement, "_ordered_values", None)
    return statement._values or dict(ordered or ())


def is_ordered(statement: Update) -> bool:
    """Whether an UPDATE has `ordered_values`: it takes no others."""
    # The first one in SQLAlchemy 2.0 alone, the second one from 2.1 on.
    names = ("_ordered_values", "_maintain_values_ordering")
    return any(getattr(statement, name, None) for name in names)


def named_columns(statement: Update, parameters: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the keys of the columns that an UPDATE may set; a statement on a model may name them by its attributes.

    :param parameters: of each execution: they may name columns too.
    """
    told = {name for values in parameters for name in values}
    keys = {getattr(column, "key", column) for column in given_values(statement)} or told
    subject = subject_of(statement)
    columns = [column_of(subject.mapper, key) for key in keys] if subject is not None else []
    return keys | told | {column.key for column in columns if column is not None}


def may_change_class(registration: Registration, names: Collection[str]) -> bool:
    """Whether rows of a registered model become rows of another one, or others its own, where these columns are set."""
    told = inspect(registration.model).polymorphic_on
    return told is not None and (not isinstance(told, Column) or told.key in names)


def key_column(table: Any, registration: Registration) -> Column[Any] | None:
    """Return the column of a table that holds the primary key of a registered model; None if it has none.

    :param table: one of the model's tables, or another object for the same table.
    """
    mapper: Mapper[Any] = inspect(registration.model)
    (key,) = mapper.primary_key  # which need not be its table's own
    for mapped in (one for each in mapper.self_and_descendants for one in each.tables):
        if isinstance(mapped, Table) and _name(mapped) == _name(table):
            keys = [key] if key.table is mapped else mapped.primary_key.columns.values()
            found: Column[Any] | None = table.c.get(keys[0].key) if len(keys) == 1 else None
            return found
    return None


def _name(table: Any) -> TableName:
    while isinstance(table, Alias):
        table = table.element  # a statement may name a table by an alias
    schema = getattr(table, "schema", None)
    return None if schema in _DEFAULT_SCHEMAS else schema, str(getattr(table, "name", ""))


def _maps_of(registry: Registry) -> _Maps:
    maps = _Maps()
    metadatas: dict[int, MetaData] = {}
    for registration in registry:
        mapper: Mapper[Any] = inspect(registration.model)
        for mapped in mapper.self_and_descendants:
            for table in mapped.tables:
                if not isinstance(table, Table):
                    continue
                metadatas[id(table.metadata)] = table.metadata
                known = maps.registrations.setdefault(_name(table), [])
                if registration not in known:
                    known.append(registration)
                    named = maps.entities.setdefault(table.name.lower(), [])
                    named.append((table.schema, registration.entity))
    wanted = set(maps.registrations)
    found = _all_cascades(metadatas.values())
    maps.references, maps.cascades, maps.updates = (_leading_to(wanted, each) for each in found)
    return maps


def _all_cascades(metadatas: Iterable[MetaData]) -> tuple[dict[TableName, list[Cascade]], ...]:
    """Return the foreign keys by the table that they refer to: all, those with an action of `ON DELETE`, and of `ON UPDATE`."""
    every: dict[TableName, list[Cascade]] = {}
    deletions: dict[TableName, list[Cascade]] = {}
    updates: dict[TableName, list[Cascade]] = {}
    for child in (table for metadata in metadatas for table in metadata.tables.values()):
        for constraint in child.foreign_key_constraints:
            try:
                referred = tuple(element.column for element in constraint.elements)
            except (NoReferencedTableError, NoReferencedColumnError):
                continue  # defined nowhere, so not in this database
            columns = tuple(element.parent for element in constraint.elements)
            cascade = Cascade(child, columns, referred)
            parent = _name(referred[0].table)
            every.setdefault(parent, []).append(cascade)
            for action, found in ((constraint.ondelete, deletions), (constraint.onupdate, updates)):
                # PostgreSQL has SET NULL of some of the columns, too.
                if (action or "").upper().partition("(")[0].strip() in _ACTIONS:
                    found.setdefault(parent, []).append(cascade)
    return every, deletions, updates


def _leading_to(
    wanted: set[TableName], cascades: dict[TableName, list[Cascade]]
) -> dict[TableName, list[Cascade]]:
    """Return only the cascades that reach a wanted table, directly or by further ones."""
    kept: dict[TableName, list[Cascade]] = {}
    grown = True
    while grown:
        grown = False
        for parent, each in cascades.items():
            useful = [c for c in each if _name(c.child) in wanted or _name(c.child) in kept]
            if len(useful) > len(kept.get(parent, [])):
                kept[parent] = useful
                grown = True
    return kept
