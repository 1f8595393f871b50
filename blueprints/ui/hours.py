"""Entering the running hours of a piece of equipment, as its counter shows them."""

from __future__ import annotations

from flask import request, url_for

from blueprints.equipment.hours import readings
from blueprints.equipment.service import equipment
from extensions import db
from extensions.api import InvalidError, ProblemError

from .choices import hours_left
from .i18n import _, local_number, translated, typed_number
from .layout import Answer, blueprint, go

#: Maximum number of readings that a page shows.
SHOWN = 10

blueprint.add_app_template_global(hours_left, "hours_left")


@blueprint.app_template_global("hours_readings")
def hours_readings(equipment_id: str) -> object:
    """Return the latest readings."""
    return readings(equipment_id, SHOWN)


@blueprint.post("/equipment/<row_id>/hours")
def enter_hours(row_id: str) -> Answer:
    """Enter what the counter shows; less than before is refused, as a slip of the finger."""
    page = url_for("ui.row", kind="equipment", row_id=row_id, _anchor="hours-heading")
    before = equipment.get(row_id).running_hours
    typed = typed_number(request.form.get("hours", ""))
    if not typed.strip():
        return go(page, _("Enter what the counter shows."))
    try:
        hours = equipment.load({"runningHours": typed}, partial=True)["running_hours"]
        if before is not None and hours < before:
            said = _(
                "The counter stood at %(hours)s already. If it was replaced, edit the equipment.",
                hours=local_number(before),
            )
            return go(page, said)
        equipment.update(row_id, {"running_hours": hours})
    except InvalidError as error:
        texts = [translated(text) for each in (error.errors or {}).values() for text in each]
        return go(page, " ".join(texts))
    except ProblemError as error:
        if error.code != 409:
            raise
        db.session.rollback()
        return go(page, _("This was changed in the meantime. The current version is shown."))
    return go(page, _("%(hours)s running hours were entered.", hours=local_number(hours)))
