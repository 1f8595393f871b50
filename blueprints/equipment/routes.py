"""`/api/equipment`."""

from __future__ import annotations

from flask_smorest import Blueprint

from blueprints.common.views import add_routes

from .service import equipment

blueprint = Blueprint(
    "equipment",
    __name__,
    url_prefix="/api/equipment",
    description="Equipment: the machinery on board",
)
add_routes(blueprint, equipment)
