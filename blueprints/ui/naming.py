"""Names of equipment and people, with what tells namesakes apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, exists, select
from sqlalchemy.orm import aliased

from blueprints.crew.models import CrewMember
from blueprints.equipment.models import Equipment
from extensions import db
from extensions.text_keys import complete_keys
from extensions.texts import fold

#: What may tell rows with the same name apart, the best first.
DISTINGUISHING: dict[type[Any], tuple[str, ...]] = {
    CrewMember: ("rank", "department", "email", "phone"),
    Equipment: ("location", "serial_number", "manufacturer", "model", "type"),
}


def labels(model: Any, row_ids: Iterable[str]) -> dict[str, str]:
    """Return the names of rows by their ids, each unlike the others of its table; deleted rows are left out."""
    ids = set(row_ids)
    if not ids:
        return {}
    complete_keys(model)
    named = db.session.execute(_named(model), {"ids": list(ids)}).all()
    names = {row.id: row.name for row in named}
    shared = {row.name_key for row in named if row.has_namesake}
    return names if not shared else names | _told_apart(model, names, shared)


# Made once: a page asks it several times, and to make it takes longer than to ask it.
@cache
def _named(model: type[Any]) -> Select[Any]:
    other = aliased(model)
    has_namesake = exists().where(other.name_key == model.name_key, other.id != model.id)
    query = select(model.id, model.name, model.name_key, has_namesake.label("has_namesake"))
    return query.where(model.id.in_(bindparam("ids", expanding=True)))


def _told_apart(
    model: type[Any], names: dict[str, str], shared: Iterable[str | None]
) -> dict[str, str]:
    """Return the names of those rows that share theirs, with what tells them apart."""
    columns = [getattr(model, name) for name in DISTINGUISHING[model]]
    query = select(model.id, model.name_key, *columns).where(model.name_key.in_(list(shared)))
    by_key: dict[str, list[Any]] = {}
    for row in db.session.execute(query):
        by_key.setdefault(row.name_key, []).append(row)
    found: dict[str, str] = {}
    for rows in by_key.values():
        told = _differences(rows, DISTINGUISHING[model])
        found |= {row.id: f"{names[row.id]} ({told(row)})" for row in rows if row.id in names}
    return found


def _differences(rows: Sequence[Any], attributes: Sequence[str]) -> Callable[[Any], str]:
    """Return the function that says of one of `rows` what no other of them has."""
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        for name in attributes:
            if value := getattr(row, name):
                counts[name, fold(value)] = counts.get((name, fold(value)), 0) + 1

    def told(row: Any) -> str:
        for name in attributes:
            value = getattr(row, name)
            if value and counts[name, fold(value)] == 1:
                return str(value)
        return f"…{row.id[-6:]}"

    return told
