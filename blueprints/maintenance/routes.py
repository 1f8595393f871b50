"""`/api/maintenance-schedules`."""

from __future__ import annotations

from typing import Any

from flask import url_for
from flask_smorest import Blueprint

from blueprints.common.idempotency import IdempotencyKey
from blueprints.common.views import CONFLICT, CREATED, IDEMPOTENCY_KEY, add_routes, answer
from blueprints.work_orders.schemas import WorkOrderSchema

from .schemas import ScheduledWorkOrderSchema
from .service import maintenance_schedules, raise_work_order

blueprint = Blueprint(
    "maintenance_schedules",
    __name__,
    url_prefix="/api/maintenance-schedules",
    description="Maintenance schedules: due dates of maintenance",
)
add_routes(blueprint, maintenance_schedules)


@blueprint.route("/<row_id>/work-order", methods=["POST"])
@blueprint.arguments(ScheduledWorkOrderSchema(partial=True), required=False)
@blueprint.response(201, WorkOrderSchema, headers=CREATED)
@blueprint.alt_response(409, description=CONFLICT)
@blueprint.alt_response(410, description="The row that the key has created was deleted since.")
@blueprint.doc(parameters=[IDEMPOTENCY_KEY])
def create_work_order(data: dict[str, Any], row_id: str) -> Any:
    """Create the work order of a schedule."""
    written = raise_work_order(row_id, data, IdempotencyKey.from_request(data))
    return answer(written, 201, url_for("work_orders.row", row_id=written.row.id))
