"""The keys of the rows that an INSERT outside the ORM's unit of work creates or, as an upsert, changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, Column, CursorResult, Insert


def with_keys(statement: Insert, key: Column[Any]) -> Insert:
    """Return the statement, made to return the keys of its rows."""
    if statement._returning:
        return statement
    if is_upsert(statement) or statement._multi_values or statement.select is not None:
        return statement.returning(key)
    return statement.return_defaults(key)


def returned_keys(result: CursorResult[Any], statement: Insert) -> list[Any]:
    """Return the keys that an executed statement of `with_keys` has returned."""
    if statement._returning:
        return list(result.scalars())
    rows: Sequence[Any] = result.inserted_primary_key_rows
    return [row[0] for row in rows]


def given_keys(
    statement: Insert, parameters: Iterable[Mapping[str, Any]], key: Column[Any]
) -> list[Any] | None:
    """Return the keys that a statement names; None if it leaves one to a default."""
    named = [_given(values, key) for values in _rows(statement, parameters)]
    return None if None in named or statement.select is not None else named


def is_upsert(statement: Insert) -> bool:
    """Whether a statement may change an existing row."""
    return statement._post_values_clause is not None


def replaces(statement: Insert) -> bool:
    """Whether a statement deletes existing rows with the same key (`INSERT OR REPLACE`), and tells nobody."""
    return any("REPLACE" in str(prefix).upper() for prefix, _ in statement._prefixes)


def _rows(
    statement: Insert, parameters: Iterable[Mapping[str, Any]]
) -> Sequence[Mapping[Any, Any]]:
    if statement._multi_values:
        return [values for several in statement._multi_values for values in several]  # type: ignore[misc]
    fixed: Mapping[Any, Any] = statement._values or {}
    return [{**fixed, **values} for values in parameters]


def _given(values: Mapping[Any, Any], key: Column[Any]) -> Any:
    for column, value in values.items():
        if getattr(column, "key", column) == key.key:
            return value.value if isinstance(value, BindParameter) else value
    return None
