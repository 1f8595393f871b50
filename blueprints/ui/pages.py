"""The pages of each kind of rows: list, one row, its forms, and what can be done to it."""

from __future__ import annotations

from typing import Any

from flask import request, url_for

from blueprints.common.idempotency import IdempotencyKey
from extensions import db
from extensions.api import InvalidError, ProblemError
from extensions.database import Row, utcnow

from . import listing, who
from .browser import is_htmx
from .forms import USE, Form, differences
from .history import related
from .i18n import _, translated
from .inputs import word
from .kinds import KINDS, OPEN_SCHEDULE, Kind, Verb, crew_offered, kind_of
from .layout import Answer, back, blueprint, go, page, part, pieces
from .lists import item, items

#: In addresses, `/<kind>` must not take the place of what others serve there.
SLUGS = f"any({', '.join(repr(slug) for slug in KINDS)})"

blueprint.add_app_template_filter(word, "word")


@blueprint.app_template_global("overdue")
def overdue(schedule: Any) -> bool:
    """Whether a schedule's date has passed and it isn't done."""
    return schedule.status in OPEN_SCHEDULE and schedule.scheduled_date < utcnow()


@blueprint.get(f"/<{SLUGS}:kind>")
def rows(kind: str) -> Answer:
    """List rows."""
    described = kind_of(kind)
    view = listing.View.of(described, request.args)
    found = listing.read(view)
    return page(
        "ui/rows.html",
        kind=described,
        view=view,
        items=items(described, found.rows, "tr"),
        previous=found.previous,
        next=found.next,
        newest=listing.newest(described),
    )


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
    )


@blueprint.route(f"/<{SLUGS}:kind>/new", methods=["GET", "POST"])
def new_row(kind: str) -> Answer:
    """Show the form for a new row; create it."""
    described = kind_of(kind)
    if request.method == "GET":
        # An address may fill in the form: a new order for this piece of equipment.
        keys = {each.key for each in described.inputs}
        given = {key: text for key, text in request.args.items() if key in keys}
        return _form_page(described, Form("new", described.inputs, values=given))
    created = create(described, Form("new", described.inputs).filled(request.form))
    if isinstance(created, Form):
        return _form_page(described, created, 422)
    return _saved(described, created)


@blueprint.route(f"/<{SLUGS}:kind>/<row_id>/edit", methods=["GET", "POST"])
def edit_row(kind: str, row_id: str) -> Answer:
    """Show the form for a row; change it, unless somebody else has meanwhile."""
    described = kind_of(kind)
    if request.method == "GET":
        found = described.resource.get(row_id)
        return _form_page(described, Form.of_row("edit", described.inputs, found), row=found)
    form = Form("edit", described.inputs).filled(request.form)
    try:
        found = described.resource.get(row_id)
    except ProblemError:
        return _gone(described, form)
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
    """Ask whether a row is to be deleted; delete it."""
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
            changed = _("This was changed in the meantime; here it is as it is now.")
            note = changed if error.code == 412 else translated(error.description)
            status = 409
        else:
            return go(url_for("ui.rows", kind=kind), _("%(name)s is deleted.", name=name))
    found = described.resource.get(row_id)
    return page(
        "ui/delete.html", status, kind=described, item=item(described, found, "page"), note=note
    )


@blueprint.post(f"/<{SLUGS}:kind>/<row_id>/<verb>")
def act(kind: str, row_id: str, verb: str) -> Answer:
    """Do something to a row, and show the row as it is then."""
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
        note = _("This was changed in the meantime; here it is as it is now.")
    else:
        if what.makes:
            return _made(what, done.row, replayed=done.replayed)
    return _acted(described, described.resource.get(row_id), note)


@blueprint.get("/ui/who")
def ask_who() -> Answer:
    """Ask who is at this tablet."""
    return page(
        "ui/who.html",
        crew=crew_offered(),
        present=request.cookies.get(who.COOKIE, ""),
        row_id=request.args.get("row_id", ""),
        then=request.args.get("then", ""),
    )


@blueprint.post("/ui/who")
def answer_who() -> Answer:
    """Remember who is at this tablet; acknowledge the alert that made us ask."""
    if row_id := request.form.get("row_id"):
        KINDS["alerts"].verb("acknowledge").do(row_id, lambda _version: True)
    then = request.form.get("then", "")
    # Only to a page of ours: a path, and not one that names another host.
    ours = then.startswith("/") and not then.startswith("//") and "\\" not in then
    answer = go(then if ours and then.isprintable() else url_for("ui.index"))
    return who.remember(answer, request.form.get("by", ""))


def create(kind: Kind, form: Form) -> Row | Form:
    """Create a row from a form; sent again, return the same. A form that can't be taken comes back with why."""
    try:
        data = kind.resource.load(form.data())
        row: Row = kind.resource.create(data, IdempotencyKey.of(form.key, request.path, data)).row
    except InvalidError as error:
        return form.refused(error.errors or {})
    except ProblemError as error:
        if error.code not in {409, 410, 422}:
            raise
        # Whatever the key stood for is settled: the next attempt is a new one.
        return form.refused({"": [str(error.description)]}, new_key=True)
    return row


def is_version_shown(version: int) -> bool:
    """Whether the page showed the row as it is."""
    return request.form.get("version", str(version)) == str(version)


def _form_page(
    kind: Kind, form: Form, status: int = 200, *, row: Row | None = None, note: str = ""
) -> Answer:
    return page("ui/form.html", status, kind=kind, form=form, row=row, note=note)


def _save(kind: Kind, form: Form, found: Row, taken: frozenset[str]) -> Answer:
    """Change a row as a form says, but for the fields that are `taken` from the row."""
    if form.version != found.version:
        return _conflict(kind, form, found)
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
            return _conflict(kind, form, now)
        return _form_page(kind, form.refused({"": [str(error.description)]}), 409, row=now)
    return _saved(kind, saved.row)


def _saved(kind: Kind, row: Row) -> Answer:
    url = url_for("ui.row", kind=kind.slug, row_id=row.id)
    return go(url, _("%(name)s is saved.", name=kind.name_of(row)))


def _conflict(kind: Kind, form: Form, found: Row) -> Answer:
    """Show both versions, and let a person choose."""
    differing = differences(form, found)
    if not differing:
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
    """Offer to create anew what somebody else has deleted while it was edited."""
    anew = Form("new", kind.inputs, values=form.values)
    note = _(
        "This was deleted in the meantime. What you typed is kept: it can be saved as a new one."
    )
    return _form_page(kind, anew, 409, note=note)


def _fresh(kind: Kind, row_id: str) -> Row:
    db.session.expire_all()
    found: Row = kind.resource.get(row_id)
    return found


def _made(verb: Verb, created: Any, *, replayed: bool) -> Answer:
    kind = KINDS[verb.makes]
    name = kind.name_of(created)
    said = (
        _("%(name)s was made before.", name=name) if replayed else _("%(name)s is made.", name=name)
    )
    return go(url_for("ui.row", kind=kind.slug, row_id=created.id), said)


def _acted(kind: Kind, found: Row, note: str) -> Answer:
    shape = request.form.get("shape", "")
    page_of_row = url_for("ui.row", kind=kind.slug, row_id=found.id)
    if shape not in {"li", "tr"} or not is_htmx():
        anchor = "" if shape not in {"li", "tr"} else f"#{kind.entity}-{found.id}"
        return go(back(page_of_row) + anchor, note)
    return pieces(part("row", item(kind, found, shape, note=note, focus=True)))
