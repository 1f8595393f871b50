"""`/`: the overview, its short forms, and what open pages ask about.

Each form works with htmx, which gets the changed pieces of the page, and without scripts.
"""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qsl

from flask import Response, request, url_for
from markupsafe import Markup
from sqlalchemy import select

from blueprints.common.fields import is_id
from extensions import db
from extensions.api import InvalidError, ProblemError

from . import dashboard, listing, pages, sync_view
from .browser import is_htmx
from .forms import Form
from .i18n import _
from .kinds import KINDS, Kind, kind_of
from .layout import Answer, blueprint, go, page, part, partial, pieces
from .lists import items

__all__ = ["blueprint"]

#: More rows than a page shows are not asked about.
MOST_ROWS = 1000
BY_ENTITY = {kind.entity: kind for kind in KINDS.values()}
#: What the overview is called where it asks what is new.
OVERVIEW = "overview"
_START = datetime(1970, 1, 1, tzinfo=UTC)
SHAPES = {"li", "tr", "page", "form"}


@blueprint.get("/")
def index() -> Answer:
    """The overview."""
    return _index()


@blueprint.post(f"/ui/<{pages.SLUGS}:kind>")
def create_row(kind: str) -> Answer:
    """Create a row from a short form of the overview."""
    described = kind_of(kind)
    form = _short_form(described).filled(request.form)
    row = pages.create(described, form)
    if isinstance(row, Form):
        return _refused(described, row)
    said = _("%(name)s is saved.", name=described.name_of(row))
    if not is_htmx():
        return go(url_for("ui.index", _anchor=f"{kind}-heading"), said)
    return pieces(
        part("short_form", described, form.done(said)),
        partial(f"#{kind}", part("cards", described, _pressing(described))),
        partial("#counts", part("counts", dashboard.counts())),
        partial("#news", part("news", _overview(), url_for("ui.index"), 0)),
    )


@blueprint.post("/ui/refresh")
def refresh() -> Answer:
    """What has changed of the chip and the rows since the page last heard.

    A POST, because the rows that a page shows may be too many for an address.
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
        list=_overview(),
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
    """Return the pieces of rows that are otherwise than a page shows them."""
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


def _overview() -> str:
    """Return what the overview asks of the poll: whether there is something newer than it shows."""
    return f"{OVERVIEW}?|{max(listing.newest(KINDS[slug]) for slug in SHORT)}"


def _new_rows(asked: str, known: str) -> list[Markup]:
    """Return the link to rows that a list does not show yet, if their number has changed."""
    slug, _mark, rest = asked.partition("?")
    query, _mark, since = rest.rpartition("|")
    if slug not in {OVERVIEW, *KINDS}:
        return []
    args = dict(parse_qsl(query, keep_blank_values=True))
    try:
        moment = _START if not since else datetime.fromisoformat(since).astimezone(UTC)
        shown = [KINDS[each] for each in SHORT] if slug == OVERVIEW else [KINDS[slug]]
        views = [listing.View.of(kind, args) for kind in shown]
        count = sum(listing.count_since(view, moment) for view in views)
    except (ValueError, OverflowError, InvalidError):
        return []
    if str(count) == known:
        return []
    url = url_for("ui.index")
    if slug != OVERVIEW:
        url = url_for("ui.rows", kind=slug, **views[0].address())
    return [partial("#news", part("news", asked, url, count))]
