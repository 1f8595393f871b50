"""`/api/work-orders`."""

from __future__ import annotations

from flask_smorest import Blueprint

from blueprints.common.views import add_routes

from .service import work_orders

blueprint = Blueprint(
    "work_orders",
    __name__,
    url_prefix="/api/work-orders",
    description="Work orders: the work to be done",
)
add_routes(blueprint, work_orders)
