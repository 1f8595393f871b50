"""Ticking off the steps of a work order: one step at a time, whatever else has changed in the row meanwhile."""

from __future__ import annotations

from flask import request, url_for

from blueprints.work_orders.service import work_orders
from blueprints.work_orders.steps import Key, keyed, ticked
from extensions import db
from extensions.api import ProblemError

from .browser import is_htmx
from .i18n import _
from .inputs import step_mark
from .layout import Answer, blueprint, go
from .pages import row

#: Attempts, each on the row as it is then, when others write it at the same moment.
ATTEMPTS = 5

blueprint.add_app_template_filter(step_mark, "step_mark")


@blueprint.app_template_filter("keyed_steps")
def keyed_steps(steps: list[dict[str, object]]) -> list[tuple[Key, dict[str, object]]]:
    """Return the steps with what each is known by."""
    return list(keyed(steps).items())


@blueprint.post("/work-orders/<row_id>/steps")
def tick(row_id: str) -> Answer:
    """Tick off one step, or take its tick away."""
    key = (request.form.get("text", ""), request.form.get("number", 0, int))
    page = url_for("ui.row", kind="work-orders", row_id=row_id)
    if not _tick(row_id, key, done=request.form.get("done") == "true"):
        return go(page, _("This was changed in the meantime. The current version is shown."))
    return row("work-orders", row_id) if is_htmx() else go(f"{page}#steps-heading")


def _tick(row_id: str, key: Key, *, done: bool) -> bool:
    for attempt in range(1, ATTEMPTS + 1):
        steps = ticked(work_orders.get(row_id).steps or [], key, done=done)
        if steps is None:
            return False
        try:
            work_orders.update(row_id, {"steps": steps})
        except ProblemError as error:
            if error.code != 409 or attempt == ATTEMPTS:
                raise
            db.session.rollback()
            continue
        return True
    return False
