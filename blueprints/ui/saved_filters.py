"""Filters of lists that were saved under a name: each person's own, or of all aboard where nobody logs in.

They belong to this machine, like the people, and are never sent ashore.
"""

from __future__ import annotations

from datetime import datetime
from urllib.parse import parse_qsl

from flask import request, url_for
from marshmallow import ValidationError
from sqlalchemy import Index, Select, String, Text, func, select
from sqlalchemy.orm import Mapped, mapped_column
from werkzeug.datastructures import MultiDict

from arus.database import insert_of
from blueprints.access.rights import of_request
from blueprints.common.fields import Line
from extensions import db
from extensions.api import ProblemError
from extensions.database import Base, UtcDateTime, new_id, utcnow
from extensions.texts import fold

from . import listing
from .i18n import _
from .kinds import SLUGS, Kind, kind_of
from .layout import Answer, blueprint, go

#: Maximum number of one person's filters of one kind of rows, and of characters of a name.
MOST, LONGEST = 30, 60
#: Characters of a name as names are compared.
LONGEST_KEY = 4 * LONGEST


class SavedFilter(Base):
    """What the address of a list asks for, under a name."""

    __tablename__ = "saved_filters"
    __table_args__ = (Index("ix_saved_filters_key", "owner", "kind", "key", unique=True),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    #: The id of the person who logged in; blank for all aboard.
    owner: Mapped[str] = mapped_column(String(36))
    kind: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(LONGEST))
    #: The name as names are compared.
    key: Mapped[str] = mapped_column(String(LONGEST_KEY))
    query: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


def saved(kind: Kind) -> list[SavedFilter]:
    """Return the filters of a list that the reader of the page has saved, by name."""
    own = _own(kind).order_by(SavedFilter.key)
    return list(db.session.scalars(own))


@blueprint.post(f"/ui/filters/<{SLUGS}:kind>")
def save_filter(kind: str) -> Answer:
    """Save what a list's address asks for under a name; a filter with the same name is replaced."""
    described = kind_of(kind)
    args = MultiDict(parse_qsl(request.form.get("query", ""), keep_blank_values=True))
    query = listing.View.of(described, args).query_string
    place = f"{url_for('ui.rows', kind=kind)}?{query}"
    try:
        name = Line(LONGEST, required=True, allow_none=False).deserialize(request.form.get("name"))
    except ValidationError:
        return go(place, _("A name has 1 to %(longest)s characters.", longest=LONGEST))
    key = fold(name)[:LONGEST_KEY]  # a ligature can become 18 letters
    if db.session.scalar(_own(described).where(SavedFilter.key == key)) is None:
        count = _own(described).with_only_columns(func.count())
        if (db.session.scalar(count) or 0) >= MOST:
            return go(place, _("There are %(most)s filters already: remove one first.", most=MOST))
    _write(key, owner=of_request().user_id, kind=kind, name=name, query=query)
    return go(place, _("The filter %(name)s was saved.", name=name))


@blueprint.post(f"/ui/filters/<{SLUGS}:kind>/<filter_id>/remove")
def remove_filter(kind: str, filter_id: str) -> Answer:
    """Remove a saved filter."""
    found = db.session.scalar(_own(kind_of(kind)).where(SavedFilter.id == filter_id))
    if found is None:
        raise ProblemError(404, "There is no such page.")
    db.session.delete(found)
    db.session.commit()
    said = _("The filter %(name)s was removed.", name=found.name)
    return go(url_for("ui.rows", kind=kind), said)


def _write(key: str, **values: str) -> None:
    # In one statement: somebody else may save one with this name at the same moment.
    insert = insert_of(db.engine.dialect)(SavedFilter).values(id=new_id(), key=key, **values)
    unique = ("owner", "kind", "key")
    replaced = {name: insert.excluded[name] for name in ("name", "query")}
    db.session.execute(insert.on_conflict_do_update(index_elements=unique, set_=replaced))
    db.session.commit()


def _own(kind: Kind) -> Select[SavedFilter]:
    owner = of_request().user_id
    return select(SavedFilter).where(SavedFilter.owner == owner, SavedFilter.kind == kind.slug)
