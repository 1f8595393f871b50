"""`/`: what a person on board reports and sees, in a browser.

Each form works with htmx, which gets the changed pieces of the page, and without scripts.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flask import (
    Blueprint,
    Response,
    get_template_attribute,
    redirect,
    render_template,
    request,
    url_for,
)
from markupsafe import Markup
from werkzeug.wrappers import Response as BaseResponse

from blueprints.alerts.service import acknowledge, alerts
from blueprints.common.fields import is_id, iso
from blueprints.common.idempotency import IdempotencyKey
from blueprints.common.resource import Resource, Written
from blueprints.work_orders.service import work_orders
from extensions import db
from extensions.api import InvalidError, ProblemError

from . import lists, sync_view
from .browser import is_htmx, refuse_foreign_forms, secure, show_problem
from .forms import Form

PARTS = "ui/_parts.html"
#: More rows than a page shows are not asked about.
MOST_ROWS = 1000

ORDER_FORM = (
    "equipmentId",
    "reason",
    "priority",
    "maintenanceType",
    "estimatedHours",
    "description",
)
ALERT_FORM = ("equipmentId", "message", "alertType", "sensorType", "value", "threshold")

Answer = BaseResponse | str | tuple[str, int]

blueprint = Blueprint(
    "ui",
    __name__,
    template_folder="templates",
    static_folder="static",
    static_url_path="/ui/static",
)
blueprint.before_request(refuse_foreign_forms)
blueprint.after_request(secure)
blueprint.after_app_request(show_problem)
blueprint.add_app_template_filter(iso, "utc")


@blueprint.app_template_filter("utc_clock")
def utc_clock(moment: datetime) -> str:
    """Return `moment` for a reader without scripts."""
    utc = moment.astimezone(UTC)
    today = utc.date() == datetime.now(UTC).date()
    return utc.strftime("%H:%M UTC" if today else "%d %b %Y %H:%M UTC")


@blueprint.app_template_filter("figure")
def figure(value: float) -> str:
    """Return a measured value without digits that say nothing."""
    return f"{value:.10g}"


@blueprint.get("/")
def index() -> str:
    """The page."""
    return _index()


@blueprint.post("/ui/work-orders")
def create_work_order() -> Answer:
    """Create a work order."""
    form = _fresh_order_form()

    def created(written: Written[Any]) -> Answer:
        if not is_htmx():
            return redirect(url_for("ui.index", _anchor="work-orders-heading"), 303)
        done = form.done(f"{written.row.wo_number} created.")
        return _answer(
            _part("work_order_form", done, lists.equipment_options()),
            _partial("#work-orders", _part("work_order_rows", lists.work_order_page())),
        )

    return _create(work_orders, form, created, "work_order_form", "order_form")


@blueprint.post("/ui/alerts")
def create_alert() -> Answer:
    """Raise an alert."""
    form = _fresh_alert_form()

    def created(_written: Written[Any]) -> Answer:
        if not is_htmx():
            return redirect(url_for("ui.index", _anchor="alerts-heading"), 303)
        return _answer(
            _part("alert_form", form.done("Alert raised."), lists.equipment_options()),
            _partial("#alerts", _part("alert_rows", lists.alert_page())),
        )

    return _create(alerts, form, created, "alert_form", "alert_form")


@blueprint.post("/ui/work-orders/<row_id>/status")
def move_work_order(row_id: str) -> Answer:
    """Start or complete a work order."""

    def move() -> object:
        data = work_orders.load({"status": request.form.get("status", "")}, partial=True)
        return work_orders.update(row_id, data, _is_version_shown)

    return _act(work_orders, row_id, move, "work_order")


@blueprint.post("/ui/alerts/<row_id>/acknowledge")
def acknowledge_alert(row_id: str) -> Answer:
    """Acknowledge an alert."""
    return _act(alerts, row_id, lambda: acknowledge(row_id, None), "alert")


@blueprint.get("/ui/work-orders")
def more_work_orders() -> Answer:
    """Further work orders, for the end of the list."""
    return str(_part("work_order_rows", lists.work_order_page(request.args.get("cursor"))))


@blueprint.get("/ui/alerts")
def more_alerts() -> Answer:
    """Further alerts, for the end of the list."""
    return str(_part("alert_rows", lists.alert_page(request.args.get("cursor"))))


@blueprint.post("/ui/sync")
def sync_state() -> Answer:
    """What has changed of the chip and the rows' states since the page last heard.

    A POST, because the rows that a page shows may be too many for an address.
    """
    shown: dict[str, dict[str, str]] = {"work_orders": {}, "alerts": {}}
    for text in request.form.getlist("row")[:MOST_ROWS]:
        entity, row_id, kind = [*text.split(":"), "", ""][:3]
        if entity in shown and is_id(row_id):
            shown[entity][row_id] = kind
    changed = [
        _partial(f"#state-{row_id}", _part("row_state", entity, row_id, state))
        for entity, kinds in shown.items()
        for row_id, state in sync_view.row_states(entity, kinds).items()
        if state.kind != kinds[row_id]
    ]
    chip = sync_view.chip()
    if chip.digest != request.form.get("seen"):
        changed.append(_partial("#chip", _part("chip", chip)))
    return str(Markup("").join(changed)) if changed else Response(status=204)


def _index(status: int = 200, **forms: Form) -> Any:
    page = render_template(
        "ui/index.html",
        chip=sync_view.chip(),
        vessel_id=sync_view.vessel_id(),
        equipment=lists.equipment_options(),
        orders=lists.work_order_page(request.args.get("work_orders")),
        alerts=lists.alert_page(request.args.get("alerts")),
        **{"order_form": _fresh_order_form(), "alert_form": _fresh_alert_form(), **forms},
    )
    return page if status == 200 else (page, status)


def _fresh_order_form() -> Form:
    return Form("work-order-form", ORDER_FORM)


def _fresh_alert_form() -> Form:
    return Form("alert-form", ALERT_FORM)


def _create(
    resource: Resource[Any],
    form: Form,
    created: Callable[[Written[Any]], Answer],
    part: str,
    name: str,
) -> Answer:
    """Create a row from the form, or show the form again with its errors."""
    form = form.filled(request.form)
    try:
        data = resource.load(form.data())
        return created(resource.create(data, IdempotencyKey.of(form.key, request.path, data)))
    except InvalidError as error:
        form = form.refused(error.errors or {})
    except ProblemError as error:
        if error.code not in {409, 410, 422}:
            raise
        # Whatever the key stood for is settled: the next attempt is a new one.
        form = form.refused({"": [str(error.description)]}, new_key=True)
    if not is_htmx():
        return _index(422, **{name: form})
    return str(_part(part, form, lists.equipment_options())), 422


def _act(resource: Resource[Any], row_id: str, action: Callable[[], object], part: str) -> Answer:
    """Do something to a row, and show the row as it is then."""
    note = ""
    try:
        action()
    except ProblemError as error:
        if error.code not in {409, 412}:
            raise
        db.session.rollback()
        note = "This was changed in the meantime; here it is as it is now."
    if not is_htmx():
        return redirect(
            url_for("ui.index", _anchor=f"{resource.model.__tablename__}-{row_id}"), 303
        )
    (item,) = lists.items([resource.get(row_id)], note=note, focus=True)
    return _answer(_part(part, item))


def _is_version_shown(version: int) -> bool:
    """Whether the page showed the row as it is."""
    return request.form.get("version", str(version)) == str(version)


def _part(name: str, *args: Any) -> Markup:
    return Markup(get_template_attribute(PARTS, name)(*args))  # noqa: S704  # rendered by Jinja


def _partial(target: str, content: Markup) -> Markup:
    return _part("partial", target, content)


def _answer(*parts: Markup) -> str:
    """Return the pieces of a page that a write has changed, the chip among them."""
    return str(Markup("").join((*parts, _partial("#chip", _part("chip", sync_view.chip())))))
