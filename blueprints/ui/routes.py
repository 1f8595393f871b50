"""`/`: the dashboard, its short forms, and the polling of open pages.

Each form works with htmx, which receives the changed pieces of the page, and without scripts.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast
from urllib.parse import parse_qsl

from flask import Response, current_app, request, url_for
from markupsafe import Markup
from sqlalchemy import select
from werkzeug.datastructures import MultiDict

from blueprints.common.fields import is_id
from extensions import db
from extensions.api import InvalidError, ProblemError

from . import calendar, dashboard, hours, listing, pages, saved_filters, search, sync_view, tick
from .browser import is_htmx
from .forms import Form
from .i18n import _
from .kinds import KINDS, SLUGS, Kind, kind_of
from .layout import Answer, blueprint, go, page, part, partial, pieces
from .lists import items

__all__ = ["blueprint", "calendar", "hours", "saved_filters", "search", "tick"]

#: Maximum number of rows that a page polls.
MOST_ROWS = 1000
BY_ENTITY = {kind.entity: kind for kind in KINDS.values()}
#: The dashboard's name when it polls for new rows.
DASHBOARD = "dashboard"
_START = datetime(1970, 1, 1, tzinfo=UTC)
SHAPES = {"li", "tr", "page", "form"}


@blueprint.get("/")
def index() -> Answer:
    """The dashboard; ashore the fleet."""
    if sync_view.is_ashore():
        return cast("Answer", current_app.view_functions["fleet.index"]())
    return _index()


@blueprint.post(f"/ui/<{SLUGS}:kind>")
def create_row(kind: str) -> Answer:
    """Create a row from a short form of the dashboard."""
    described = kind_of(kind)
    form = _short_form(described).filled(request.form)
    if form.looking:
        return _index(200, **{kind: form})
    row = pages.create(described, form)
    if isinstance(row, Form):
        return _refused(described, row)
    said = _("%(name)s was saved.", name=described.name_of(row))
    if not is_htmx():
        return go(url_for("ui.index", _anchor=f"{kind}-heading"), said)
    return pieces(
        part("short_form", described, form.done(said)),
        partial(f"#{kind}", part("cards", described, _pressing(described))),
        partial("#counts", part("counts", dashboard.counts())),
        partial("#news", part("news", _shown_on_dashboard(), url_for("ui.index"), 0)),
    )


@blueprint.post("/ui/refresh")
def refresh() -> Answer:
    """Return the changes of the chip and the rows since the page's last poll.

    It is a POST because the rows of a page may be too many for a URL.
    """
    shown: dict[str, dict[str, tuple[str, str, str]]] = {}
    for text in request.form.getlist("row")[:MOST_ROWS]:
        match text.split(":"):
            case [entity, row_id, state, version, shape] if (
                entity in BY_ENTITY and is_id(row_id) and shape in SHAPES
            ):
                shown.setdefault(entity, {})[row_id] = (state, version, shape)
    changed = [
        piece for entity, rows in shown.items() for piece in _changed(BY_ENTITY[entity], rows)
    ]
    changed += _new_rows(request.form.get("list", ""), request.form.get("news", "0"))
    chip = sync_view.chip()
    if chip.digest != request.form.get("seen"):
        changed.append(partial("#chip", part("chip", chip)))
    return str(Markup("").join(changed)) if changed else Response(status=204)


def _index(status: int = 200, **forms: Form) -> Answer:
    return page(
        "ui/index.html",
        status,
        counts=dashboard.counts(),
        mine=dashboard.mine(),
        list=_shown_on_dashboard(),
        forms={slug: forms.get(slug) or _short_form(KINDS[slug]) for slug in SHORT},
        kinds=KINDS,
        orders=_pressing(KINDS["work-orders"]),
        alerts=_pressing(KINDS["alerts"]),
        schedules=_pressing(KINDS["schedules"]),
    )


SHORT = tuple(slug for slug, kind in KINDS.items() if kind.quick)


def _pressing(kind: Kind) -> list[dashboard.Item]:
    shown = {
        "work-orders": dashboard.pressing_orders,
        "alerts": dashboard.pressing_alerts,
        "schedules": dashboard.pressing_schedules,
    }
    return shown[kind.slug]()


def _short_form(kind: Kind) -> Form:
    if not kind.quick:
        raise ProblemError(404, "There is no such form.")
    return Form(f"{kind.slug.removesuffix('s')}-form", kind.quick_inputs)


def _refused(kind: Kind, form: Form) -> Answer:
    if is_htmx():
        return str(part("short_form", kind, form)), 422
    return _index(422, **{kind.slug: form})


def _changed(kind: Kind, shown: dict[str, tuple[str, str, str]]) -> list[Markup]:
    """Return the pieces of rows that have changed since the page showed them."""
    versions: dict[str, int] = dict(
        db.session.execute(
            select(kind.model.id, kind.model.version).where(kind.model.id.in_(shown))
        ).all()
    )
    states = sync_view.row_states(kind.entity, shown)
    changed: list[Markup] = []
    renewed: list[str] = []
    for row_id, (state, version, shape) in shown.items():
        if str(versions.get(row_id, "")) != version:
            if shape in {"page", "form"}:
                told = f"{row_id}:{versions.get(row_id, '')}"
                if told != request.form.get("told"):
                    said = part("changed", row_id in versions, shape == "form", told)
                    changed.append(partial("#changed", said))
            elif row_id in versions:
                renewed.append(row_id)
            else:
                target = f"#{kind.entity}-{row_id}"
                changed.append(partial(target, part("deleted", shape), "outerHTML"))
        elif shape != "form" and states[row_id].kind != state:
            value = f"{kind.entity}:{row_id}:{states[row_id].kind}:{version}:{shape}"
            changed.append(partial(f"#state-{row_id}", part("row_state", states[row_id], value)))
    rows = db.session.scalars(select(kind.model).where(kind.model.id.in_(renewed))).all()
    for shape in ("li", "tr"):
        some = [row for row in rows if shown[row.id][2] == shape]
        changed += [
            partial(f"#{kind.entity}-{item.row.id}", part("row", item), "outerHTML")
            for item in items(kind, some, shape)
        ]
    return changed


def _shown_on_dashboard() -> str:
    """Return the value with which the dashboard polls for rows newer than those it shows."""
    return f"{DASHBOARD}?|{max(listing.newest(KINDS[slug]) for slug in SHORT)}"


def _new_rows(asked: str, known: str) -> list[Markup]:
    """Return the link to rows that a list does not show yet, if their count has changed."""
    slug, _mark, rest = asked.partition("?")
    query, _mark, since = rest.rpartition("|")
    if slug not in {DASHBOARD, *KINDS}:
        return []
    args = MultiDict(parse_qsl(query, keep_blank_values=True))
    try:
        moment = _START if not since else datetime.fromisoformat(since).astimezone(UTC)
        shown = [KINDS[each] for each in SHORT] if slug == DASHBOARD else [KINDS[slug]]
        views = [listing.View.of(kind, args) for kind in shown]
        count = sum(listing.count_since(view, moment) for view in views)
    except (ValueError, OverflowError, InvalidError):
        return []
    if str(count) == known:
        return []
    url = url_for("ui.index")
    if slug != DASHBOARD:
        url = url_for("ui.rows", kind=slug, **views[0].address())
    return [partial("#news", part("news", asked, url, count))]
