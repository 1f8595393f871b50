"""The lists of the page: rows with all that is shown of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import select

from blueprints.alerts.models import Alert
from blueprints.alerts.service import alerts
from blueprints.common.resource import Resource
from blueprints.equipment.models import Equipment
from blueprints.work_orders.models import WorkOrder
from blueprints.work_orders.service import work_orders
from extensions import db

from .sync_view import RowState, row_states

R = TypeVar("R", WorkOrder, Alert)

PAGE_SIZE = 20
MOST_EQUIPMENT = 1000


@dataclass(frozen=True, slots=True)
class Item(Generic[R]):
    """A row as it is shown."""

    row: R
    #: Name of the piece of equipment.
    equipment: str
    state: RowState
    #: Said below the row.
    note: str = ""
    #: Whether the keyboard goes on from here.
    focus: bool = False


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """Some rows, and where the next begin."""

    items: list[Item[R]]
    next: str | None


def items(rows: Sequence[R], *, note: str = "", focus: bool = False) -> list[Item[R]]:
    """Return `rows`, all of one table, with what is shown of them."""
    if not rows:
        return []
    query = select(Equipment.id, Equipment.name).where(
        Equipment.id.in_({row.equipment_id for row in rows})
    )
    names: dict[str, str] = dict(db.session.execute(query).tuples().all())
    states = row_states(rows[0].__tablename__, [row.id for row in rows])
    return [Item(row, names.get(row.equipment_id, ""), states[row.id], note, focus) for row in rows]


def work_order_page(cursor: str | None = None) -> Page[WorkOrder]:
    """Return the newest work orders, or those after `cursor`."""
    return _page(work_orders, cursor)


def alert_page(cursor: str | None = None) -> Page[Alert]:
    """Return the newest alerts, or those after `cursor`."""
    return _page(alerts, cursor)


def _page(resource: Resource[Any], cursor: str | None) -> Page[Any]:
    rows, following = resource.list(limit=PAGE_SIZE, cursor=cursor)
    return Page(items(rows), following)


def equipment_options() -> list[tuple[str, str]]:
    """Return the equipment in use, as (id, name), by name."""
    query = (
        select(Equipment.id, Equipment.name)
        .where(Equipment.is_active)
        .order_by(Equipment.name, Equipment.id)
        .limit(MOST_EQUIPMENT)
    )
    return list(db.session.execute(query).tuples())
