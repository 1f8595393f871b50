"""Rows with all that is shown of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from extensions.database import Row

from .kinds import KINDS, Kind, names
from .sync_view import RowState, row_states


@dataclass(frozen=True, slots=True)
class Item:
    """A row as it is shown."""

    kind: Kind
    row: Any
    #: Names of the rows that it refers to, by attribute.
    names: dict[str, str]
    state: RowState
    #: What its columns and verbs are called, translated once for all rows.
    labels: dict[str, str]
    #: How it is shown: a card (li), a table's row (tr) or a page of its own.
    shape: str
    #: Said below the row.
    note: str = ""
    #: Whether the keyboard goes on from here.
    focus: bool = False

    @property
    def name(self) -> str:
        """What the row is called."""
        return self.kind.name_of(self.row)

    @property
    def polled(self) -> str:
        """What a page that shows it asks about."""
        return ":".join(
            (self.kind.entity, self.row.id, self.state.kind, str(self.row.version), self.shape)
        )


def items(
    kind: Kind, rows: Sequence[Row], shape: str, *, note: str = "", focus: bool = False
) -> list[Item]:
    """Return `rows`, all of one kind, with what is shown of them."""
    if not rows:
        return []
    labels = {column.name: str(column.label) for column in kind.columns}
    labels |= {verb.name: str(verb.label) for verb in kind.verbs}
    states = row_states(kind.entity, [row.id for row in rows])
    references = {column.name: column.shape for column in _references(kind)}
    known = {
        slug: names(slug, _ids(rows, [n for n, s in references.items() if s == slug]))
        for slug in set(references.values())
    }
    return [
        Item(
            kind,
            row,
            {
                name: known[slug].get(getattr(row, name) or "", "")
                for name, slug in references.items()
            },
            states[row.id],
            labels,
            shape,
            note,
            focus,
        )
        for row in rows
    ]


def item(kind: Kind, row: Row, shape: str, *, note: str = "", focus: bool = False) -> Item:
    """Return one row with what is shown of it."""
    (only,) = items(kind, [row], shape, note=note, focus=focus)
    return only


def _references(kind: Kind) -> list[Any]:
    return [column for column in (*kind.columns, *kind.details) if column.shape in KINDS]


def _ids(rows: Sequence[Row], attributes: Iterable[str]) -> set[str]:
    found = {getattr(row, name) for name in attributes for row in rows}
    return {row_id for row_id in found if row_id}
