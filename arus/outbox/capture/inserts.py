"""The keys of the rows that an INSERT outside the ORM's unit of work creates or, as an upsert, changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, Column, Insert
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.visitors import iterate


def with_keys(statement: Insert, executions: int, key: Column[Any]) -> Insert:
    """Return the statement, made to return the keys of its rows.

    :param executions: how often it is executed.
    """
    if statement._returning:
        return statement
    is_many = bool(statement._multi_values) or statement.select is not None
    # Without `implicit_returning`, SQLAlchemy knows the last key alone.
    is_many = is_many or (executions > 1 and not key.table.implicit_returning)
    # A mapper may name another key than its table, whose own is the one that the defaults have.
    if is_upsert(statement) or is_many or statement._inline or not key.primary_key:
        return statement.returning(key)
    return statement.return_defaults(key)


def given_keys(
    statement: Insert, parameters: Iterable[Mapping[str, Any]], key: Column[Any]
) -> list[Any] | None:
    """Return the keys that a statement names; None if it leaves one to a default or a SQL expression."""
    named = [_given(values, key) for values in _rows(statement, parameters)]
    is_known = statement.select is None and all(value is not None for value in named)
    return named if is_known else None


def is_upsert(statement: Insert) -> bool:
    """Whether a statement may change an existing row."""
    return statement._post_values_clause is not None


def is_upsert_by(statement: Insert, key: Column[Any]) -> bool:
    """Whether an existing row that a statement changes is always one with a key that the statement names."""
    return all(
        [getattr(one, "name", one) for one in clause.inferred_target_elements or ()] == [key.name]  # type: ignore[attr-defined]
        for clause in iterate(statement._post_values_clause)
        if clause.__visit_name__ == "on_conflict_do_update"
    )


def upserted_columns(statement: Insert) -> set[str]:
    """Return the keys of the columns that an upsert may set in an existing row."""
    return {
        getattr(column, "key", column)
        for clause in iterate(statement._post_values_clause)
        if clause.__visit_name__ == "on_conflict_do_update"
        for column in dict(clause.update_values_to_set)  # type: ignore[attr-defined]
    }


def may_change_key(statement: Insert, key: Column[Any]) -> bool:
    """Whether an upsert may give an existing row another key: it sets one, and not the one by which it has found the row."""
    return any(
        getattr(column, "key", column) == key.key and not _is_kept(statement, value, key)
        for clause in iterate(statement._post_values_clause)
        if clause.__visit_name__ == "on_conflict_do_update"
        for column, value in dict(clause.update_values_to_set).items()  # type: ignore[attr-defined]
    )


def _is_kept(statement: Insert, value: Any, key: Column[Any]) -> bool:
    """Whether what an upsert sets as the key is the row's own, or the given one by which the row was found."""
    value = value.__clause_element__() if hasattr(value, "__clause_element__") else value
    is_key = isinstance(value, Column) and value.key == key.key
    return is_key and (value.table.name != "excluded" or is_upsert_by(statement, key))


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
            if isinstance(value, BindParameter):
                return value.value
            return None if _is_expression(value) else value
    return None


def _is_expression(value: Any) -> bool:
    return isinstance(value, ClauseElement) or hasattr(value, "__clause_element__")
