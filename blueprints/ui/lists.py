"""Rows with everything that the pages show of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from extensions.database import Row

from .kinds import KINDS, Kind, names
from .sync_view import RowState, copies_of, row_states


class Item(Struct, frozen=True):
    """A row with everything that is shown of it."""

    kind: Kind
    row: Any
    #: Names of the rows it refers to, by attribute.
    names: dict[str, str]
    state: RowState
    #: Labels of its columns and verbs, translated once for all rows.
    labels: dict[str, str]
    #: How it is shown: as a card (li), a table row (tr) or a page.
    shape: str
    #: A message shown below the row.
    note: str = ""
    #: Whether it receives the keyboard focus.
    focus: bool = False
    #: The vessel of whose row it is the copy; blank aboard.
    vessel: str = ""

    @property
    def name(self) -> str:
        """The row's name."""
        return self.kind.name_of(self.row)

    @property
    def polled(self) -> str:
        """The value by which an open page polls for changes of the row."""
        return ":".join(
            (self.kind.entity, self.row.id, self.state.kind, str(self.row.version), self.shape)
        )


def items(
    kind: Kind, rows: Sequence[Row], shape: str, *, note: str = "", focus: bool = False
) -> list[Item]:
    """Return `rows`, all of the same kind, as items."""
    if not rows:
        return []
    labels = {column.name: str(column.label) for column in kind.columns}
    labels |= {verb.name: str(verb.label) for verb in kind.verbs}
    states = row_states(kind.entity, [row.id for row in rows])
    vessels = copies_of(kind.entity, [row.id for row in rows])
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
            vessels.get(row.id, ""),
        )
        for row in rows
    ]


def item(kind: Kind, row: Row, shape: str, *, note: str = "", focus: bool = False) -> Item:
    """Return one row as an item."""
    (only,) = items(kind, [row], shape, note=note, focus=focus)
    return only


def _references(kind: Kind) -> list[Any]:
    return [column for column in (*kind.columns, *kind.details) if column.shape in KINDS]


def _ids(rows: Sequence[Row], attributes: Iterable[str]) -> set[str]:
    found = {getattr(row, name) for name in attributes for row in rows}
    return {row_id for row_id in found if row_id}
