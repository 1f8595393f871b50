"""`/api/alerts`."""

from __future__ import annotations

from typing import Any

from flask_smorest import Blueprint

from blueprints.common.views import CONFLICT, WRITTEN, add_routes, answer

from .schemas import AcknowledgementSchema, AlertSchema
from .service import acknowledge, alerts

blueprint = Blueprint(
    "alerts", __name__, url_prefix="/api/alerts", description="Alerts: reports from the sensors"
)
add_routes(blueprint, alerts)


@blueprint.route("/<row_id>/acknowledge", methods=["POST"])
@blueprint.arguments(AcknowledgementSchema, required=False)
@blueprint.response(200, AlertSchema, headers=WRITTEN)
@blueprint.alt_response(409, description=CONFLICT)
def acknowledge_alert(data: dict[str, str | None], row_id: str) -> Any:
    """Acknowledge an alert; acknowledging it again changes nothing."""
    return answer(acknowledge(row_id, data.get("acknowledged_by")))
