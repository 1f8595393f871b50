"""Partial indexes for both databases, without loading the one that is not used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from sqlalchemy import Index

#: The dialects that have partial indexes: those of the supported databases.
_DIALECTS = ("sqlite", "postgresql")

Options = MutableMapping[str, Any]


class _Conditions(Mapping[str, Options]):
    """The options of an index by dialect, each read when it is asked for.

    `Index(..., postgresql_where=...)` loads PostgreSQL's dialect at once, to check that it has such an option: 38 modules
    and 2 MB that a vessel with SQLite never needs. Here a dialect is loaded once its options are read: when it creates
    the index, and when all options are listed, as a migration's generator does.
    """

    def __init__(self, options: Mapping[str, Options], condition: Any) -> None:
        self._options = options
        self._condition = condition
        self._unset = set(_DIALECTS)

    def __getitem__(self, dialect: str) -> Options:
        options = self._options[dialect]
        if dialect in self._unset:
            self._unset.remove(dialect)
            options["where"] = self._condition
        return options

    def __contains__(self, dialect: object) -> bool:
        return dialect in self._unset or dialect in self._options

    def __iter__(self) -> Iterator[str]:
        for dialect in _DIALECTS:
            self[dialect]
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._unset.union(self._options))


def partial_index(name: str, *columns: str, where: Any, unique: bool = False) -> Index:
    """Return an index of only those rows that meet a condition.

    :param where: the condition, as `sqlite_where` and `postgresql_where` take it.
    """
    index = Index(name, *columns, unique=unique)
    # SQLAlchemy's own attribute is made at its first use too, and kept in the same place.
    vars(index)["dialect_options"] = _Conditions(index.dialect_options, where)
    return index
