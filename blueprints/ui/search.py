"""`/search`: one text in the rows of all kinds, as people compare texts."""

from __future__ import annotations

from flask import request
from msgspec import Struct
from sqlalchemy import select

from extensions import db
from extensions.text_keys import complete_keys

from .kinds import KINDS, Kind
from .layout import Answer, blueprint, page
from .listing import has_words, search_text
from .lists import Item, items

#: Rows of each kind that are shown; the link to the list shows all.
MOST = 5


class Found(Struct, frozen=True):
    """The rows of one kind."""

    kind: Kind
    items: list[Item]
    has_more: bool


@blueprint.get("/search")
def search() -> Answer:
    """Show the rows in which a text was found."""
    q = search_text(request.args.get("q", ""))
    found = (
        [each for each in map(_found, KINDS.values(), [q] * len(KINDS)) if each.items] if q else []
    )
    return page("ui/search.html", q=q, found=found)


def _found(kind: Kind, q: str) -> Found:
    model = kind.model
    complete_keys(model)
    query = select(model).where(has_words(model, q))
    query = query.order_by(model.created_at.desc(), model.id.desc()).limit(MOST + 1)
    rows = list(db.session.scalars(query))
    return Found(kind, items(kind, rows[:MOST], "li"), len(rows) > MOST)
