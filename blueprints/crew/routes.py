"""`/api/crew`."""

from __future__ import annotations

from flask_smorest import Blueprint

from blueprints.common.views import add_routes

from .service import crew

blueprint = Blueprint("crew", __name__, url_prefix="/api/crew", description="Crew: who is on board")
add_routes(blueprint, crew)
