"""The pages of each kind of rows: the list, one row, its forms and its actions."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request, url_for
from msgspec import Struct
from msgspec.structs import replace

from blueprints.common.csv_rows import BATCH, csv_response
from blueprints.common.idempotency import IdempotencyKey
from extensions import db
from extensions.api import InvalidError, ProblemError
from extensions.database import Row

from . import listing, saved_filters, who
from .browser import is_htmx
from .choices import Offered, crew_offered, is_overdue
from .derived import Filter
from .forms import LOOK, LOOKED, USE, Difference, Form, differences
from .history import related
from .i18n import _, translated
from .inputs import word
from .kinds import KINDS, SLUGS, Kind, kind_of
from .layout import Answer, back, blueprint, go, page, part, pieces
from .lists import item, items
from .row_history import history_of, retention_days
from .verbs import Verb

#: Before the name of a filter in the address of its options.
FILTER = "filter."

blueprint.add_app_template_filter(word, "word")
blueprint.add_app_template_global(is_overdue, "overdue")


@blueprint.get(f"/<{SLUGS}:kind>")
def rows(kind: str) -> Answer:
    """List rows."""
    described = kind_of(kind)
    view = listing.View.of(described, request.args)
    found = listing.read(view)
    return page(
        "ui/rows.html",
        kind=described,
        filters=[_filter_shown(view, each) for each in described.filters],
        view=view,
        items=items(described, found.rows, "tr"),
        previous=found.previous,
        next=found.next,
        newest=listing.newest(described),
        saved=saved_filters.saved(described),
    )


@blueprint.get(f"/<{SLUGS}:kind>.csv")
def rows_csv(kind: str) -> Response:
    """The list that the same query shows, as CSV: all its pages, in its order."""
    described = kind_of(kind)
    view = listing.View.of(described, request.args)
    return csv_response(described.resource.schema(), listing.batches(view, BATCH), kind)


@blueprint.get(f"/<{SLUGS}:kind>/<row_id>")
def row(kind: str, row_id: str) -> Answer:
    """Show one row."""
    described = kind_of(kind)
    found = described.resource.get(row_id)
    return page(
        "ui/row.html",
        kind=described,
        item=item(described, found, "page"),
        related=related(described, found),
        history=history_of(described, found),
        retention_days=retention_days,
    )


@blueprint.route(f"/<{SLUGS}:kind>/new", methods=["GET", "POST"])
def new_row(kind: str) -> Answer:
    """Show the form for a new row; create it."""
    described = kind_of(kind)
    if request.method == "GET":
        # The URL may fill in the form, such as a new order for this piece of equipment.
        keys = {each.key for each in described.inputs}
        given = {key: text for key, text in request.args.items() if key in keys}
        return _form_page(described, Form("new", described.inputs, values=given))
    form = Form("new", described.inputs).filled(request.form)
    if form.looking:
        return _form_page(described, form)
    created = create(described, form)
    if isinstance(created, Form):
        return _form_page(described, created, 422)
    return _saved(described, created)


@blueprint.route(f"/<{SLUGS}:kind>/<row_id>/edit", methods=["GET", "POST"])
def edit_row(kind: str, row_id: str) -> Answer:
    """Show the form for a row; change the row unless somebody else has changed it meanwhile."""
    described = kind_of(kind)
    if request.method == "GET":
        found = described.resource.get(row_id)
        return _form_page(described, Form.of_row("edit", described.inputs, found), row=found)
    form = Form("edit", described.inputs).filled(request.form)
    try:
        found = described.resource.get(row_id)
    except ProblemError:
        return _gone(described, form)
    if form.looking:
        return _form_page(described, form, row=found)
    if request.form.get("decide") == "mine":
        taken: frozenset[str] = frozenset()
    else:
        taken = frozenset(
            name.removeprefix(USE)
            for name, side in request.form.items()
            if name.startswith(USE) and side != "mine"
        )
    return _save(described, form, found, taken)


@blueprint.route(f"/<{SLUGS}:kind>/<row_id>/delete", methods=["GET", "POST"])
def delete_row(kind: str, row_id: str) -> Answer:
    """Ask for confirmation to delete a row; delete it."""
    described = kind_of(kind)
    note, status = "", 200
    if request.method == "POST":
        try:
            name = described.name_of(described.resource.get(row_id))
            described.resource.delete(row_id, is_version_shown)
        except ProblemError as error:
            if error.code not in {409, 412}:
                raise
            db.session.rollback()
            changed = _("This was changed in the meantime. The current version is shown.")
            note = changed if error.code == 412 else translated(error.description)
            status = 409
        else:
            return go(url_for("ui.rows", kind=kind), _("%(name)s was deleted.", name=name))
    found = described.resource.get(row_id)
    return page(
        "ui/delete.html", status, kind=described, item=item(described, found, "page"), note=note
    )


@blueprint.post(f"/<{SLUGS}:kind>/<row_id>/<verb>")
def act(kind: str, row_id: str, verb: str) -> Answer:
    """Carry out an action on a row and show the result."""
    described = kind_of(kind)
    what = described.verb(verb)
    if verb == "acknowledge" and who.must_be_asked():
        here = back(url_for("ui.rows", kind=kind))
        return go(url_for("ui.ask_who", row_id=row_id, then=here))
    note = ""
    try:
        done = what.do(row_id, is_version_shown)
    except ProblemError as error:
        if error.code not in {409, 412}:
            raise
        db.session.rollback()
        note = _("This was changed in the meantime. The current version is shown.")
    else:
        if what.makes:
            return _made(what, done.row, replayed=done.replayed)
    return _acted(described, described.resource.get(row_id), note)


@blueprint.get(f"/ui/choices/<{SLUGS}:kind>/<name>")
def choices(kind: str, name: str) -> Response:
    """Search the options of a form's field, or with `filter.` before the name of a list's filter."""
    described = kind_of(kind)
    q = listing.search_text(request.args.get("q", ""))
    present = request.args.getlist("present")[: listing.MOST_CHOSEN]
    if name.startswith(FILTER):
        chosen = {each.name: each for each in described.filters if each.searched}
        found = chosen.get(name.removeprefix(FILTER))
        offer: Any = found.offered if found else None
    else:
        offered = {each.key: each.offered for each in described.inputs if each.offered}
        offer = offered.get(name)
    if offer is None:
        raise ProblemError(404, "There is no such page.")
    options: Offered = offer(present, q)
    body = {
        "options": [{"value": value, "text": str(text)} for value, text in options.options],
        "hasMore": options.has_more,
    }
    answer: Response = jsonify(body)
    return answer


@blueprint.get("/ui/who")
def ask_who() -> Answer:
    """Ask who is at this tablet."""
    present = request.cookies.get(who.COOKIE, "")
    look = listing.search_text(request.args.get(f"{LOOK}by", ""))
    crew = crew_offered([present] if present else [], look)
    nobody = (who.NOBODY, _("not specified"))
    return page(
        "ui/who.html",
        crew=replace(crew, options=[nobody, *crew.options]),
        look=look,
        present=present,
        row_id=request.args.get("row_id", ""),
        then=request.args.get("then", ""),
    )


@blueprint.post("/ui/who")
def answer_who() -> Answer:
    """Remember who is at this tablet; acknowledge the alert for which the question was asked."""
    look = request.form.get(f"{LOOK}by", "").strip()
    if look != request.form.get(f"{LOOKED}by", ""):
        asked: dict[str, Any] = {each: request.form.get(each, "") for each in ("row_id", "then")}
        return go(url_for("ui.ask_who", **{**asked, f"{LOOK}by": look}))
    if row_id := request.form.get("row_id"):
        KINDS["alerts"].verb("acknowledge").do(row_id, lambda _version: True)
    then = request.form.get("then", "")
    # Redirect only within this server: to a path that does not name another host.
    ours = then.startswith("/") and not then.startswith("//") and "\\" not in then
    answer = go(then if ours and then.isprintable() else url_for("ui.index"))
    return who.remember(answer, request.form.get("by", ""))


def create(kind: Kind, form: Form) -> Row | Form:
    """Create a row from a form, or return the row if the form is sent again; if refused, the form with its errors."""
    try:
        data = kind.resource.load(form.data())
        row: Row = kind.resource.create(data, IdempotencyKey.of(form.key, request.path, data)).row
    except InvalidError as error:
        return form.refused(error.errors or {})
    except ProblemError as error:
        if error.code not in {409, 410, 422}:
            raise
        said = str(error.description)
        if error.code == 422:  # of the key, of which people know nothing
            said = _("This form was saved before, with other values. Saving it makes another one.")
        # The outcome for this key is final: the next attempt needs a new key.
        return form.refused({"": [said]}, new_key=True)
    return row


def is_version_shown(version: int) -> bool:
    """Return whether the page showed the row's current version."""
    return request.form.get("version", str(version)) == str(version)


class FilterShown(Struct, frozen=True):
    """A filter of a list as the page shows it."""

    filter: Filter
    offered: Offered
    #: The text that was searched for among its options, without scripts.
    look: str

    @property
    def single(self) -> str:
        """The choice that the list of options shows: none if there are several, which are shown one by one."""
        chosen = self.offered.chosen
        return chosen[0][0] if len(chosen) == 1 else ""


def _filter_shown(view: listing.View, each: Filter) -> FilterShown:
    look = listing.search_text(request.args.get(LOOK + each.name, "")) if each.searched else ""
    return FilterShown(each, each.offered(view.chosen[each.name], look), look)


def _form_page(
    kind: Kind, form: Form, status: int = 200, *, row: Row | None = None, note: str = ""
) -> Answer:
    return page("ui/form.html", status, kind=kind, form=form, row=row, note=note)


def _save(kind: Kind, form: Form, found: Row, taken: frozenset[str]) -> Answer:
    """Change a row to a form's values, except for the fields in `taken`, which keep the row's."""
    if form.version != found.version:
        form = form.merged_with(found)
        differing = differences(form, found)
        if any(each.by_them for each in differing):
            return _conflict(kind, form, found, differing)
        # Nothing that the form shows is decided by this: what others have changed in it is kept.
        form = replace(form, version=found.version)
    try:
        data = kind.resource.load(form.changes(found, unless=taken), partial=True)
        saved = kind.resource.update(found.id, data, lambda version: version == form.version)
    except InvalidError as error:
        return _form_page(kind, form.refused(error.errors or {}), 422, row=_fresh(kind, found.id))
    except ProblemError as error:
        if error.code not in {409, 412}:
            raise
        db.session.rollback()
        now = _fresh(kind, found.id)
        if now.version != form.version:
            return _save(kind, form, now, taken)
        return _form_page(kind, form.refused({"": [str(error.description)]}), 409, row=now)
    return _saved(kind, saved.row)


def _saved(kind: Kind, row: Row) -> Answer:
    url = url_for("ui.row", kind=kind.slug, row_id=row.id)
    return go(url, _("%(name)s was saved.", name=kind.name_of(row)))


def _conflict(kind: Kind, form: Form, found: Row, differing: list[Difference]) -> Answer:
    """Show both versions and let a person choose."""
    # Who has edited nothing has nothing to decide: the newer version stands.
    if not any(each.by_me for each in differing):
        return _saved(kind, found)
    return page(
        "ui/conflict.html",
        409,
        kind=kind,
        form=form,
        item=item(kind, found, "page"),
        differences=differing,
        agreed=[each for each in form.inputs if each.key not in {d.input.key for d in differing}],
    )


def _gone(kind: Kind, form: Form) -> Answer:
    """Offer to create again a row that somebody else has deleted while it was edited."""
    anew = Form("new", kind.inputs, values=form.values)
    note = _("This was deleted in the meantime. Your input is kept and can be saved as a new one.")
    return _form_page(kind, anew, 409, note=note)


def _fresh(kind: Kind, row_id: str) -> Row:
    db.session.expire_all()
    found: Row = kind.resource.get(row_id)
    return found


def _made(verb: Verb, created: Any, *, replayed: bool) -> Answer:
    kind = KINDS[verb.makes]
    name = kind.name_of(created)
    said = (
        _("%(name)s already exists.", name=name)
        if replayed
        else _("%(name)s was created.", name=name)
    )
    return go(url_for("ui.row", kind=kind.slug, row_id=created.id), said)


def _acted(kind: Kind, found: Row, note: str) -> Answer:
    shape = request.form.get("shape", "")
    page_of_row = url_for("ui.row", kind=kind.slug, row_id=found.id)
    if shape not in {"li", "tr"} or not is_htmx():
        anchor = "" if shape not in {"li", "tr"} else f"#{kind.entity}-{found.id}"
        return go(back(page_of_row) + anchor, note)
    return pieces(part("row", item(kind, found, shape, note=note, focus=True)))
