"""Lists: searched, filtered, sorted, and paged by keyset in both directions, as the URL requests."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import orjson
from marshmallow import ValidationError
from msgspec import Struct
from sqlalchemy import Select, and_, false, func, or_, select, tuple_
from werkzeug.datastructures import MultiDict

from blueprints.common.fields import Text, is_id, iso
from blueprints.equipment.models import Equipment
from extensions import db
from extensions.api import InvalidError
from extensions.database import Row
from extensions.text_keys import complete_keys, has_text, key_column
from extensions.texts import sort_key

from .derived import Filter
from .kinds import Kind, given

PAGE_SIZE = 25
#: Maximum number of choices of one filter.
MOST_CHOSEN = 50
#: New rows are counted up to this number.
MOST_COUNTED = 100
_CURSOR = {"cursor": ["Not a cursor of this list."]}


def search_text(text: str) -> str:
    """Return a text to search for; blank if there is none.

    :raises InvalidError: it can't be one.
    """
    try:
        return Text(200).deserialize(text) or ""
    except ValidationError as error:
        raise InvalidError({"q": error.messages}) from error  # type: ignore[dict-item]


def has_words(model: type[Any], text: str) -> Any:
    """Return the condition that a text of a row, or of its equipment, contains `text`."""
    found = has_text(model, text)
    if not hasattr(model, "equipment_id"):
        return found
    return or_(found, model.equipment_id.in_(select(Equipment.id).where(has_text(Equipment, text))))


class View(Struct, frozen=True):
    """The view of a list that a URL requests."""

    kind: Kind
    q: str
    #: The choices by the filters' names: any of several, all rows if there is none.
    chosen: Mapping[str, tuple[str, ...]]
    #: The attribute to sort by.
    sort: str
    descending: bool
    after: str = ""
    before: str = ""

    @classmethod
    def of(cls, kind: Kind, args: MultiDict[str, str]) -> View:
        """Return the view that `args`, a URL's query, requests.

        :raises InvalidError: the query is not valid.
        """
        q = search_text(args.get("q", ""))
        chosen = {each.name: _choices(each, args) for each in kind.filters}
        order = args.get("sort") or kind.sort
        sort = order.removeprefix("-")
        if sort not in {"created_at", *(column.name for column in kind.columns if column.sort)}:
            raise InvalidError({"sort": ["The list can't be sorted by this."]})
        place = {name: args.get(name, "") for name in ("after", "before")}
        return cls(kind, q, chosen, sort, order.startswith("-"), **place)

    @property
    def order(self) -> str:
        """The sort order as in URLs."""
        return f"-{self.sort}" if self.descending else self.sort

    @property
    def narrowed(self) -> bool:
        """Whether a search or a filter leaves out rows of the default list."""
        return bool(self.q) or any(
            self.chosen[each.name] != _default(each) for each in self.kind.filters
        )

    def address(self, **changes: str) -> dict[str, Any]:
        """Return the URL query of this list's first page, with `changes`."""
        query = {
            "q": self.q,
            "sort": self.order if self.order != self.kind.sort else "",
            **changes,
        }
        kept: dict[str, Any] = {name: value for name, value in query.items() if value}
        for each in self.kind.filters:
            # A choice is in the URL only if it is not the default, even when it is blank.
            if self.chosen[each.name] != _default(each):
                kept[each.name] = list(self.chosen[each.name]) or [""]
        return kept

    @property
    def query_string(self) -> str:
        """The URL query of this list's first page as text."""
        return urlencode(self.address(), doseq=True)

    def toggled(self, name: str) -> str:
        """Return the sort order after a click on a column's heading."""
        if name != self.sort:
            return f"-{name}" if name == "created_at" else name
        return name if self.descending else f"-{name}"

    def query(self) -> Select[Any]:
        """Return the query for the matching rows, without an order."""
        model = self.kind.model
        complete_keys(model)
        query = select(model)
        for name, values in self.chosen.items():
            if values:
                query = query.where(given(self.kind, values, name))
        if self.q:
            query = query.where(has_words(model, self.q))
        return query

    @property
    def key(self) -> Any:
        """The column to sort by: of a text its sort key."""
        column = key_column(self.kind.model, self.sort)
        return getattr(self.kind.model, self.sort) if column is None else column

    def value_of(self, row: Row) -> Any:
        """Return a row's value of the column to sort by."""
        value = getattr(row, self.sort)
        is_text = key_column(self.kind.model, self.sort) is not None
        return sort_key(value) if is_text and value is not None else value


class Slice(Struct, frozen=True):
    """Some rows of a list, and the cursors to those before and after them."""

    rows: list[Any]
    previous: str = ""
    next: str = ""


def read(view: View, limit: int = PAGE_SIZE) -> Slice:
    """Return the rows that `view` requests."""
    if view.before:
        rows, more = _rows(view, view.before, limit, backwards=True)
        if more:
            return Slice(rows, encode(view, rows[0]), encode(view, rows[-1]))
        # The beginning is reached: show a full first page instead of the few rows before the cursor.
    rows, more = _rows(view, "" if view.before else view.after, limit, backwards=False)
    beginning = not view.after or bool(view.before)
    return Slice(
        rows,
        encode(view, rows[0]) if rows and not beginning else "",
        encode(view, rows[-1]) if more else "",
    )


def batches(view: View, size: int) -> Iterator[list[Any]]:
    """Return all rows of the list, `size` of them at a time."""
    cursor = ""
    while True:
        rows, more = _rows(view, cursor, size, backwards=False)
        cursor = encode(view, rows[-1]) if more else ""
        yield rows
        if not cursor:
            return


def newest(kind: Kind) -> str:
    """Return when the newest row was created, as text; blank if there are no rows."""
    moment = db.session.scalar(select(func.max(kind.model.created_at)))
    return iso(moment) if moment else ""


def count_since(view: View, moment: datetime) -> int:
    """Return how many matching rows were created after `moment`, at most `MOST_COUNTED`."""
    query = view.query().where(view.kind.model.created_at > moment)
    rows = query.with_only_columns(view.kind.model.id).limit(MOST_COUNTED).subquery()
    return db.session.scalar(select(func.count()).select_from(rows)) or 0


def encode(view: View, row: Row) -> str:
    """Return the cursor of `row`'s position in the list."""
    value = view.value_of(row)
    if isinstance(value, datetime):
        value = value.isoformat()
    text = orjson.dumps([value, row.created_at.isoformat(), row.id])
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def decode(view: View, cursor: str) -> tuple[Any, datetime, str]:
    """Return the position that `cursor` encodes.

    :raises InvalidError: it is not a cursor of this list.
    """
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        value, created, row_id = orjson.loads(base64.urlsafe_b64decode(padded))
        created_at = _moment(created)
        wanted = view.key.type.python_type
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
    """Return whether the databases accept a value that comes from a URL."""
    if isinstance(value, str):
        return "\0" not in value
    return not isinstance(value, int) or abs(value) < 2**31


def _rows(view: View, cursor: str, limit: int, *, backwards: bool) -> tuple[list[Any], bool]:
    """Return up to `limit` rows on one side of `cursor`, in the list's order, and whether there are more."""
    model, descending = view.kind.model, view.descending != backwards
    # All keys in the same direction, so that the indexes on (column, created_at, id) serve both directions.
    keys = [model.created_at, model.id]
    if view.sort != "created_at":
        keys.insert(0, view.key)
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
    column = view.key
    if not getattr(model, view.sort).nullable:
        return compare((column, model.created_at, model.id), place)
    # SQLite sorts nulls first and PostgreSQL last; each database's order is kept so that its indexes are used.
    nulls_first = (db.engine.dialect.name == "sqlite") != descending
    if value is None:
        return or_(and_(column.is_(None), within), column.is_not(None) if nulls_first else false())
    beyond = compare((column, model.created_at, model.id), place)
    return beyond if nulls_first else or_(beyond, column.is_(None))


def _choices(each: Filter, args: MultiDict[str, str]) -> tuple[str, ...]:
    """Return a filter's choices; refuse some that are too long or that a database might not accept."""
    if each.name not in args:
        return _default(each)
    texts = dict.fromkeys(text for text in args.getlist(each.name) if text)
    if len(texts) > MOST_CHOSEN or any(len(text) > 300 or "\0" in text for text in texts):
        raise InvalidError({each.name: ["Not one of the choices."]})
    return tuple(texts)


def _default(each: Filter) -> tuple[str, ...]:
    return (each.default,) if each.default else ()
