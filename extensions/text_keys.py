"""Columns with the texts of a row in the form in which they are searched, filtered and sorted.

A model names the texts that are searched in `searched`, and has a column made by `key_of` for each text that lists are
sorted or filtered by. The ORM writes these columns with the row. A row that was written otherwise (SQL, a follower, an
upsert) has none: a trigger empties its `search_key` when a text changes, and `complete_keys` fills it in before the
next search. These columns are not part of messages, digests or answers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from math import inf
from typing import Any

from flask import has_request_context, request
from sqlalchemy import (
    DDL,
    Column,
    Index,
    Select,
    String,
    Table,
    Text,
    bindparam,
    event,
    func,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapped, Mapper, mapped_column, object_session

from arus.outbox.capture.versions import CAPTURED
from arus.partial_index import partial_index

from .database import Row, db
from .texts import MAX_KEY, fold, search_form, sort_key
from .upgrades import after_upgrade

logger = logging.getLogger(__name__)

#: The key in a column's `info` with the name of the text whose sort key the column has.
KEY_OF = "key_of"
#: Rows whose keys are completed in one transaction.
CHUNK = 500
#: Rows whose keys a request completes.
MOST_AT_ONCE = 10_000
#: Ends each text in a search key; the texts themselves have no control characters.
_END = "\x01"
#: Marks the first text of a search key; those of the others follow.
_FIRST = 2


class SearchedRow(Row):
    """Base class of rows whose texts are searched."""

    __abstract__ = True

    #: The attributes that are searched; the order is part of the stored keys.
    searched: tuple[str, ...] = ()

    search_key: Mapped[str | None] = mapped_column(
        Text().with_variant(Text(collation="C"), "postgresql"), deferred=True, sort_order=100
    )


def key_of(name: str) -> Mapped[str | None]:
    """Return the column with the sort key of the text `name`."""
    kind = String(MAX_KEY)
    return mapped_column(
        kind.with_variant(String(MAX_KEY, collation="C"), "postgresql"),
        deferred=True,
        sort_order=101,
        info={KEY_OF: name},
    )


def key_column(model: type[Any], name: str) -> Any | None:
    """Return the attribute with the sort key of a text; None if the model has none."""
    for column in model.__table__.columns:
        if column.info.get(KEY_OF) == name:
            return getattr(model, column.key)
    return None


def search_indexes(table: str, *texts: str) -> tuple[Index, ...]:
    """Return the index of the rows without keys, and those of lists in the order of each text, or filtered by it."""
    missing = partial_index(
        f"ix_{table}_without_keys", "search_key", where=Column("search_key").is_(None)
    )
    return (
        missing,
        *(
            Index(f"ix_{table}_{text}_key_list", f"{text}_key", "created_at", "id")
            for text in texts
        ),
    )


# --- conditions ----------------------------------------------------------------------------------


def has_text(model: type[Any], text: str) -> Any:
    """Return the condition that one of a row's searched texts contains `text`."""
    return _contains(model.search_key, search_form(text))


def equals_text(model: type[Any], name: str, text: str) -> Any:
    """Return the condition that the text `name` of a row is `text`, but for case and Unicode form; marks tell letters apart."""
    column = key_column(model, name)
    if column is not None:
        return column == sort_key(text)
    mark = chr(_FIRST + model.searched.index(name))
    return _contains(model.search_key, f"{mark}{fold(text)}{_END}")


def _contains(column: Any, text: str) -> Any:
    # Neither has a pattern, in which some characters mean others.
    find = func.instr if db.engine.dialect.name == "sqlite" else func.strpos
    return find(column, text) > 0


#: Of a request: the tables whose rows have their keys.
_COMPLETED = "arus.completed_keys"

# --- writing -------------------------------------------------------------------------------------


def keys_of(model: type[Any], values: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the key columns of a row by name, from its texts."""
    if any(not isinstance(values.get(name), str | None) for name in _texts(model)):
        # SQL expressions: what they become is known after the statement.
        return dict.fromkeys(["search_key", *(column for column, _name in _key_names(model))])
    keys: dict[str, str | None] = {
        "search_key": _search_key([values.get(name) for name in model.searched])
    }
    for column, name in _key_names(model):
        value = values.get(name)
        keys[column] = None if value is None else sort_key(value)
    return keys


def _search_key(texts: Sequence[str | None]) -> str:
    """Return the searched texts, folded and marked, and those again whose letters have marks, without these."""
    folded = [(place, fold(text)) for place, text in enumerate(texts) if text is not None]
    parts = [f"{chr(_FIRST + place)}{text}{_END}" for place, text in folded]
    parts += [f"{form}{_END}" for _place, text in folded if (form := search_form(text)) != text]
    return "".join(parts)


def complete_keys(model: Any, most: float = MOST_AT_ONCE) -> None:
    """Write the keys of the rows that have none.

    A failure is logged, and the rows are then not found by their texts.

    A request asks once for each table: what others write meanwhile can wait for the next one.

    :param most: rows after which it ends, because somebody else may write faster.
    """
    if has_request_context():
        completed: set[type[Any]] = request.environ.setdefault(_COMPLETED, set())
        if model in completed:
            return
        completed.add(model)
    query = _without_keys(model)
    seen: set[str] = set()
    while len(seen) < most and (rows := db.session.execute(query).mappings().all()):
        try:
            _write(model, rows)
        except DBAPIError as error:
            logger.warning(
                "%s: the search keys of %d rows can't be written: %s",
                model.__tablename__,
                len(rows),
                error.orig,
            )
            return
        ids = {row["id"] for row in rows}
        if ids <= seen:
            return  # these rows are being changed all the time
        seen |= ids


# Made once: each page with a list asks it.
@cache
def _without_keys(model: type[Any]) -> Select[Any]:
    query = select(model.id, *(getattr(model, name) for name in _texts(model)))
    return query.where(model.search_key.is_(None)).limit(CHUNK)


def complete_all_keys() -> None:
    """Write the keys of all rows that have none, after the database was migrated."""
    for mapper in Row.registry.mappers:
        if issubclass(mapper.class_, SearchedRow):
            complete_keys(mapper.class_, inf)


after_upgrade(complete_all_keys)


def _write(model: type[Any], rows: Sequence[Any]) -> None:
    table: Table = model.__table__
    texts = _texts(model)
    # Only if the texts are still those that were read.
    unchanged = [table.c[name].is_not_distinct_from(bindparam(f"was_{name}")) for name in texts]
    statement = update(table).where(table.c.id == bindparam("row_id"), *unchanged)
    given = [
        {
            "row_id": row["id"],
            **{f"was_{name}": row[name] for name in texts},
            **keys_of(model, row),
        }
        for row in rows
    ]
    # Nothing that is sent may change, or ship and shore would differ: not even the time of the last change.
    kept = {column: column for column in table.columns if column.onupdate is not None}
    statement = statement.values(
        {**kept, **{table.c[name]: bindparam(name) for name in keys_of(model, {})}}
    )
    with db.engine.begin() as connection:
        # The log has nothing of these columns.
        connection.execute(statement, given, execution_options={CAPTURED: True})


def _texts(model: type[Any]) -> tuple[str, ...]:
    """Return the texts that the keys are made of."""
    return _texts_of(model.searched, model.__table__)


@cache
def _texts_of(searched: tuple[str, ...], table: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*searched, *(name for _column, name in _keyed(table))]))


def _key_names(model: type[Any]) -> tuple[tuple[str, str], ...]:
    return _keyed(model.__table__)


@cache
def _keyed(table: Any) -> tuple[tuple[str, str], ...]:
    columns = table.columns
    return tuple((each.key, each.info[KEY_OF]) for each in columns if KEY_OF in each.info)


def _set_keys(_mapper: Mapper[Any], _connection: Any, row: Any) -> None:
    session = object_session(row)
    if inspect(row).persistent and session is not None:
        # Keys alone are no change, and must not raise the version.
        if not session.is_modified(row, include_collections=False):
            return
        changed = inspect(row).attrs
        if not any(changed[name].history.has_changes() for name in _texts(type(row))):
            return
    values = {name: getattr(row, name) for name in _texts(type(row))}
    for name, key in keys_of(type(row), values).items():
        setattr(row, name, key)


event.listen(SearchedRow, "before_insert", _set_keys, propagate=True)
event.listen(SearchedRow, "before_update", _set_keys, propagate=True)


# --- triggers ------------------------------------------------------------------------------------


def triggers(table: str, texts: Sequence[str], dialect: str) -> tuple[str, ...]:
    """Return the statements that create the trigger which empties a row's search key when a text changes."""
    names = ", ".join(texts)
    if dialect == "sqlite":
        changed = " OR ".join(f"NEW.{name} IS NOT OLD.{name}" for name in texts)
        return (
            (
                f"CREATE TRIGGER {table}_stale_keys AFTER UPDATE OF {names} ON {table}"  # noqa: S608  # names of ours
                f" WHEN NEW.search_key = OLD.search_key AND ({changed})"
                f" BEGIN UPDATE {table} SET search_key = NULL WHERE id = NEW.id; END"
            ),
        )
    changed = " OR ".join(f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in texts)
    return (
        (
            "CREATE OR REPLACE FUNCTION empty_search_key() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.search_key := NULL; RETURN NEW; END $$"
        ),
        (
            f"CREATE TRIGGER {table}_stale_keys BEFORE UPDATE OF {names} ON {table} FOR EACH ROW"
            f" WHEN (NEW.search_key = OLD.search_key AND ({changed}))"
            " EXECUTE FUNCTION empty_search_key()"
        ),
    )


def attach_triggers(model: type[Any]) -> None:
    """Create a model's trigger along with its table."""
    for dialect in ("sqlite", "postgresql"):
        for statement in triggers(model.__tablename__, _texts(model), dialect):
            ddl = DDL(statement.replace("%", "%%")).execute_if(dialect=dialect)
            event.listen(model.__table__, "after_create", ddl)
