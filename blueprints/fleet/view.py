"""What the pages of the fleet show, and in which pieces they are renewed while somebody looks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2s
from typing import TYPE_CHECKING, Any, cast

from flask import get_template_attribute
from markupsafe import Markup
from marshmallow import ValidationError
from msgspec import Struct
from sqlalchemy import select

from arus.follower.fleet_query import MAX_SEARCH, FleetQuery, InvalidCursorError, Order
from arus.protocol.times import now_ms
from blueprints.common.fields import Text
from blueprints.ui.i18n import lazy
from blueprints.ui.kinds import KINDS, Kind, kind_of
from blueprints.ui.layout import partial
from blueprints.ui.lists import Item, items
from extensions import db, sync
from extensions.api import InvalidError

from .addresses import element_of

if TYPE_CHECKING:
    from arus.follower.fleet import FleetPage, FleetState, FleetVessel, VesselDetails

PIECES = "fleet/_pieces.html"
#: Vessels on a page of the list, and rows on a page of a vessel's table.
PAGE_SIZE, ROWS = 50, 25
#: The first table that a vessel's page shows.
FIRST_TABLE = "work-orders"
_CURSOR = {"cursor": ["Not a cursor of this list."]}
_CHOICE = ["Not one of the choices."]


class Selection(Struct, frozen=True):
    """One of the list's selections: its choices, and what each asks for."""

    name: str
    label: Any
    #: By the choice's name in URLs: its text, and the filters.
    choices: Mapping[str, tuple[Any, Mapping[str, bool]]]


SELECTIONS = (
    Selection(
        "presence",
        lazy("Presence"),
        {
            "online": (lazy("online"), {"online": True}),
            "offline": (lazy("offline"), {"online": False}),
        },
    ),
    Selection(
        "audit",
        lazy("Last audit"),
        {
            "equal": (lazy("equal"), {"equal": True}),
            "differs": (lazy("differs"), {"audited": True, "equal": False}),
            "none": (lazy("none yet"), {"audited": False}),
        },
    ),
    Selection(
        "has",
        lazy("Has"),
        {
            "behind": (lazy("changes behind"), {"behind": True}),
            "refused": (lazy("refused rows"), {"refused": True}),
            "held": (lazy("held changes"), {"held": True}),
            "schema": (lazy("schema differences"), {"fields_differ": True}),
        },
    ),
)
#: Sort orders by their name in URLs.
ORDERS: Mapping[str, Order] = {"": "vessel_id", "heard": "last_heard", "behind": "behind"}


class ListView(Struct, frozen=True):
    """The list that a URL asks for."""

    q: str
    #: The choice of each selection; blank for any.
    chosen: Mapping[str, str]
    sort: str
    cursor: str

    @classmethod
    def of(cls, args: Mapping[str, str]) -> ListView:
        """Return the list that `args`, a URL's query, asks for.

        :raises InvalidError: the query is not valid.
        """
        try:
            q = Text(MAX_SEARCH).deserialize(args.get("q", "")) or ""
        except ValidationError as error:
            raise InvalidError({"q": cast("list[str]", error.messages)}) from error
        chosen = {each.name: args.get(each.name, "") for each in SELECTIONS}
        for each in SELECTIONS:
            if chosen[each.name] not in {"", *each.choices}:
                raise InvalidError({each.name: _CHOICE})
        sort = args.get("sort", "")
        if sort not in ORDERS:
            raise InvalidError({"sort": ["The list can't be sorted by this."]})
        return cls(q, chosen, sort, args.get("cursor", ""))

    @property
    def is_narrowed(self) -> bool:
        """Whether it leaves out vessels."""
        return bool(self.q) or any(self.chosen.values())

    @property
    def query(self) -> FleetQuery:
        """The query for it."""
        filters: dict[str, bool] = {}
        for each in SELECTIONS:
            if choice := self.chosen[each.name]:
                filters |= each.choices[choice][1]
        return FleetQuery(
            self.q, filters, ORDERS[self.sort], limit=PAGE_SIZE, cursor=self.cursor or None
        )

    def address(self, **changes: str) -> dict[str, Any]:
        """Return the URL query of this list's first page, with `changes`."""
        query = {"q": self.q, **self.chosen, "sort": self.sort, **changes}
        return {name: value for name, value in query.items() if value}

    @property
    def place(self) -> dict[str, Any]:
        """The URL query of this page of the list."""
        return self.address(cursor=self.cursor)


class Fleet(Struct, frozen=True):
    """All that the page of the fleet shows, at one moment."""

    now: int
    state: FleetState
    view: ListView
    vessels: FleetPage

    def pieces(self) -> dict[str, Markup]:
        """Return the pieces that are renewed while somebody looks, by the ids of their elements."""
        found = {name: piece(name, self) for name in ("following", "figures")}
        for vessel in self.vessels.items:
            found[element_of(vessel.vessel_id)] = piece("cells", vessel, self.now)
        return found


class Table(Struct, frozen=True):
    """A page of one of a vessel's tables."""

    kind: Kind
    items: list[Item]
    #: The id after which the next page begins; blank after the last.
    next: str
    is_first: bool


class VesselPage(Struct, frozen=True):
    """All that a vessel's page shows, at one moment, without its tables."""

    now: int
    details: VesselDetails

    @property
    def vessel(self) -> FleetVessel:
        """The vessel as in the list."""
        return self.details.vessel

    def pieces(self) -> dict[str, Markup]:
        """Return the pieces that are renewed while somebody looks, by the ids of their elements."""
        names = ("presence", "facts", "audit", "topics", "events", "refused", "held")
        return {name: piece(name, self) for name in names}


def read_fleet(args: Mapping[str, str]) -> Fleet:
    """Read what the page of the fleet shows.

    :raises InvalidError: the query is not valid.
    """
    view, fleet = ListView.of(args), sync.runtime().fleet
    try:
        vessels = fleet.page(view.query)
    except InvalidCursorError as error:
        raise InvalidError(_CURSOR) from error
    return Fleet(now_ms(), fleet.state(), view, vessels)


def read_vessel(vessel_id: str) -> VesselPage:
    """Read what a vessel's page shows, without its tables.

    :raises UnknownVesselError: there is none with this id.
    """
    return VesselPage(now_ms(), sync.runtime().fleet.vessel(vessel_id))


def read_table(vessel_id: str, slug: str, after: str) -> Table:
    """Read a page of a vessel's table.

    :raises ProblemError: there is no such table.
    :raises InvalidError: no row can have the id `after`.
    """
    kind = kind_of(slug)
    if len(after) > MAX_SEARCH or not after.isprintable():
        raise InvalidError({"after": ["Not a cursor of this list."]})
    ids = sync.runtime().fleet.row_ids(vessel_id, kind.entity, after=after, limit=ROWS + 1)
    shown = ids[:ROWS]
    found = db.session.scalars(select(kind.model).where(kind.model.id.in_(shown)))
    by_id = {row.id: row for row in found}
    rows = [by_id[row_id] for row_id in shown if row_id in by_id]
    following = shown[-1] if len(ids) > ROWS else ""
    return Table(kind, items(kind, rows, "tr"), following, is_first=not after)


def tables() -> Iterable[Kind]:
    """Return the kinds of rows, in the order in which a vessel's page offers them."""
    return KINDS.values()


def digest(html: Markup) -> str:
    """Return a short hash by which a page recognises a piece that it already shows."""
    return blake2s(html.encode(), digest_size=6).hexdigest()


def seen(name: str, html: Markup) -> Markup:
    """Return the hidden field by which a page says which state of a piece it shows."""
    return piece("seen", name, digest(html))


def changed(pieces: Mapping[str, Markup], known: Iterable[str]) -> list[Markup]:
    """Return the pieces that have changed since a page showed them, as htmx expects them.

    :param known: the fields of `seen` on the page.
    """
    shown = dict(each.split(":", 1) for each in known if ":" in each)
    found = []
    for name, html in pieces.items():
        if name in shown and shown[name] != digest(html):
            found += [partial(f"#{name}", html), partial(f"#seen-{name}", seen(name, html))]
    return found


def piece(name: str, *args: Any) -> Markup:
    """Return a piece of a page."""
    return Markup(get_template_attribute(PIECES, name)(*args)).strip()  # noqa: S704  # rendered by Jinja
