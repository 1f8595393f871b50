"""A list as its address asks for it: searched, filtered, sorted, and paged by keyset both ways."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from marshmallow import ValidationError
from sqlalchemy import Select, and_, false, func, or_, select, tuple_

from blueprints.common.fields import Text, is_id, iso
from extensions import db
from extensions.api import InvalidError
from extensions.database import Row

from .kinds import Kind, given

PAGE_SIZE = 25
#: New rows are counted up to here.
MOST_COUNTED = 100
_CURSOR = {"cursor": ["Not a cursor of this list."]}


@dataclass(frozen=True, slots=True)
class View:
    """What an address asks of a list."""

    kind: Kind
    q: str
    #: The filters' choices by their names; blank ones included.
    chosen: Mapping[str, str]
    #: The attribute to sort by.
    sort: str
    descending: bool
    after: str = ""
    before: str = ""

    @classmethod
    def of(cls, kind: Kind, args: Mapping[str, str]) -> View:
        """Return what `args`, an address's query, asks for.

        :raises InvalidError: that can't be had.
        """
        try:
            q = Text(200).deserialize(args.get("q", "")) or ""
        except ValidationError as error:
            raise InvalidError({"q": error.messages}) from error  # type: ignore[dict-item]
        chosen = {each.name: _line(args.get(each.name, each.default)) for each in kind.filters}
        order = args.get("sort") or kind.sort
        sort = order.removeprefix("-")
        if sort not in {"created_at", *(column.name for column in kind.columns if column.sort)}:
            raise InvalidError({"sort": ["The list can't be sorted by this."]})
        place = {name: args.get(name, "") for name in ("after", "before")}
        return cls(kind, q, chosen, sort, order.startswith("-"), **place)

    @property
    def order(self) -> str:
        """The sort as addresses have it."""
        return f"-{self.sort}" if self.descending else self.sort

    @property
    def narrowed(self) -> bool:
        """Whether rows are left out that the plain list has."""
        return bool(self.q) or any(
            self.chosen[each.name] != each.default for each in self.kind.filters
        )

    def address(self, **changes: str) -> dict[str, Any]:
        """Return the query of an address of this list, at its beginning, with `changes`."""
        query = {
            "q": self.q,
            "sort": self.order if self.order != self.kind.sort else "",
            **changes,
        }
        kept = {name: value for name, value in query.items() if value}
        for each in self.kind.filters:
            value = changes.get(each.name, self.chosen[each.name])
            # A blank choice is told only where it is not what a plain address means.
            if value != each.default:
                kept[each.name] = value
            else:
                kept.pop(each.name, None)
        return kept

    def toggled(self, name: str) -> str:
        """Return the order that a click on a column's heading asks for."""
        if name != self.sort:
            return f"-{name}" if name == "created_at" else name
        return name if self.descending else f"-{name}"

    def query(self) -> Select[Any]:
        """Return the rows that match, in no order."""
        model = self.kind.model
        query = select(model)
        for name, value in self.chosen.items():
            if value:
                query = query.where(given(self.kind, value, name))
        if self.q:
            columns = (getattr(model, name) for name in self.kind.resource.searched)
            query = query.where(
                or_(*(column.icontains(self.q, autoescape=True) for column in columns))
            )
        return query


@dataclass(frozen=True, slots=True)
class Slice:
    """Some rows of a list, and the addresses' cursors to those before and after them."""

    rows: list[Any]
    previous: str = ""
    next: str = ""


def read(view: View, limit: int = PAGE_SIZE) -> Slice:
    """Return the rows that `view` asks for."""
    if view.before:
        rows, more = _rows(view, view.before, limit, backwards=True)
        if more:
            return Slice(rows, encode(view, rows[0]), encode(view, rows[-1]))
        # The beginning is reached: a whole first page reads better than what is left of one.
    rows, more = _rows(view, "" if view.before else view.after, limit, backwards=False)
    beginning = not view.after or bool(view.before)
    return Slice(
        rows,
        encode(view, rows[0]) if rows and not beginning else "",
        encode(view, rows[-1]) if more else "",
    )


def newest(kind: Kind) -> str:
    """Return when the newest row was created, blank where there is none."""
    moment = db.session.scalar(select(func.max(kind.model.created_at)))
    return iso(moment) if moment else ""


def count_since(view: View, moment: datetime) -> int:
    """Return how many rows that match were created after `moment`, or `MOST_COUNTED`."""
    query = view.query().where(view.kind.model.created_at > moment)
    rows = query.with_only_columns(view.kind.model.id).limit(MOST_COUNTED).subquery()
    return db.session.scalar(select(func.count()).select_from(rows)) or 0


def encode(view: View, row: Row) -> str:
    """Return the cursor of `row`'s place in the list."""
    value = getattr(row, view.sort)
    if isinstance(value, datetime):
        value = value.isoformat()
    text = orjson.dumps([value, row.created_at.isoformat(), row.id])
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def decode(view: View, cursor: str) -> tuple[Any, datetime, str]:
    """Return the place that `cursor` names.

    :raises InvalidError: it is not one of this list.
    """
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        value, created, row_id = orjson.loads(base64.urlsafe_b64decode(padded))
        created_at = _moment(created)
        wanted = getattr(view.kind.model, view.sort).type.python_type
        if wanted is datetime and value is not None:
            value = _moment(value)
    except (ValueError, TypeError, OverflowError, binascii.Error) as error:
        raise InvalidError(_CURSOR) from error
    if not is_id(row_id) or not (value is None or (type(value) is wanted and _fits(value))):
        raise InvalidError(_CURSOR)
    return value, created_at, row_id


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return moment.astimezone(UTC)


def _fits(value: Any) -> bool:
    """Whether a database takes a value that we have not written ourselves."""
    if isinstance(value, str):
        return "\0" not in value
    return not isinstance(value, int) or abs(value) < 2**31


def _rows(view: View, cursor: str, limit: int, *, backwards: bool) -> tuple[list[Any], bool]:
    """Return up to `limit` rows on one side of `cursor`, in the list's order, and whether there are more."""
    model, descending = view.kind.model, view.descending != backwards
    # All in one direction, so that the indexes on (column, created_at, id) serve both.
    keys = [model.created_at, model.id]
    if view.sort != "created_at":
        keys.insert(0, getattr(model, view.sort))
    query = view.query()
    if cursor:
        query = query.where(_beyond(view, decode(view, cursor), descending=descending))
    query = query.order_by(*(key.desc() if descending else key for key in keys)).limit(limit + 1)
    rows = list(db.session.scalars(query))
    found, more = rows[:limit], len(rows) > limit
    return (found[::-1] if backwards else found), more


def _beyond(view: View, place: tuple[Any, datetime, str], *, descending: bool) -> Any:
    model = view.kind.model
    value, *rest = place

    def compare(keys: Any, values: Any) -> Any:
        return tuple_(*keys) < tuple_(*values) if descending else tuple_(*keys) > tuple_(*values)

    within = compare((model.created_at, model.id), rest)
    if view.sort == "created_at":
        return within
    column = getattr(model, view.sort)
    if not column.nullable:
        return compare((column, model.created_at, model.id), place)
    # SQLite puts nulls before all else, PostgreSQL behind; each so that its indexes serve.
    nulls_first = (db.engine.dialect.name == "sqlite") != descending
    if value is None:
        return or_(and_(column.is_(None), within), column.is_not(None) if nulls_first else false())
    beyond = compare((column, model.created_at, model.id), place)
    return beyond if nulls_first else or_(beyond, column.is_(None))


def _line(text: str) -> str:
    """Return a choice without what no choice has and databases refuse."""
    if len(text) > 300 or not text.isprintable():
        raise InvalidError({"filter": ["Not one of the choices."]})
    return text
