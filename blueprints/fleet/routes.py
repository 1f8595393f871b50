"""`/` ashore and `/fleet`: the fleet, and `/fleet/<vesselId>`: one vessel. On a vessel there is neither."""

from __future__ import annotations

from flask import Blueprint, Response, request, url_for
from flask.blueprints import BlueprintSetupState
from markupsafe import Markup

from arus.errors import FleetError
from arus.web.problems import sentence
from blueprints.ui import sync_view
from blueprints.ui.browser import refuse_foreign_forms, secure
from blueprints.ui.layout import Answer, page, part, partial
from extensions import sync
from extensions.api import problem

from .addresses import VesselConverter, element_of, shown_id
from .view import (
    FIRST_TABLE,
    SELECTIONS,
    Fleet,
    changed,
    digest,
    piece,
    read_fleet,
    read_table,
    read_vessel,
    seen,
    tables,
)

__all__ = ["blueprint"]

blueprint = Blueprint("fleet", __name__, template_folder="templates")
blueprint.before_request(refuse_foreign_forms)
blueprint.after_request(secure)


@blueprint.record_once
def add_converter(state: BlueprintSetupState) -> None:
    """Add the converter of the ids to the application, before the routes that use it."""
    state.app.url_map.converters["vessel"] = VesselConverter


blueprint.add_app_template_filter(shown_id, "vessel_name")
blueprint.add_app_template_global(sync_view.age, "age")


@blueprint.app_template_global("is_followed")
def is_followed(vessel_id: str) -> bool:
    """Return whether the settings have a vessel followed."""
    return sync.runtime().fleet.follows(vessel_id)


@blueprint.app_template_global("follow_command")
def follow_command() -> str:
    """Return the command that follows the vessels."""
    return "flask --app wsgi sync follow --name shore"


@blueprint.app_errorhandler(FleetError)
def refuse(error: FleetError) -> Response:
    """Answer 404: there is no fleet here, or no such vessel."""
    return problem(404, sentence(error))


@blueprint.get("/fleet")
def index() -> Answer:
    """The fleet."""
    fleet = read_fleet(request.args)
    pieces = fleet.pieces()
    return page(
        "fleet/index.html",
        fleet=fleet,
        view=fleet.view,
        selections=SELECTIONS,
        pieces=pieces,
        seen={name: seen(name, html) for name, html in pieces.items()},
        element_of=element_of,
        shown=_shown(fleet),
        poll_url=url_for("fleet.refresh", **fleet.view.place),
    )


@blueprint.post("/ui/fleet")
def refresh() -> Answer:
    """Return what has changed on the page of the fleet since its last poll.

    It is a POST because the vessels of a page may be too many for a URL.
    """
    fleet = read_fleet(request.args)
    found = changed(fleet.pieces(), request.form.getlist("piece"))
    if (shown := _shown(fleet)) != request.form.get("shown", shown):
        address = url_for("fleet.index", **fleet.view.place)
        found.append(partial("#news", piece("news", shown, address)))
    return _answer(found)


@blueprint.get("/fleet/<vessel:vessel_id>")
def vessel(vessel_id: str) -> Answer:
    """One vessel: its state, and a page of one of its tables."""
    shown = read_vessel(vessel_id)
    pieces = shown.pieces()
    slug = request.args.get("table", FIRST_TABLE)
    return page(
        "fleet/vessel.html",
        shown=shown,
        vessel=shown.vessel,
        pieces=pieces,
        seen={name: seen(name, html) for name, html in pieces.items()},
        table=read_table(vessel_id, slug, request.args.get("after", "")),
        tables=tables(),
        poll_url=url_for("fleet.refresh_vessel", vessel_id=vessel_id),
    )


@blueprint.post("/ui/fleet/<vessel:vessel_id>")
def refresh_vessel(vessel_id: str) -> Answer:
    """Return what has changed on a vessel's page since its last poll."""
    return _answer(changed(read_vessel(vessel_id).pieces(), request.form.getlist("piece")))


def _shown(fleet: Fleet) -> str:
    """Return a hash of which vessels a page of the list shows, in their order."""
    return digest(Markup(" ").join(element_of(each.vessel_id) for each in fleet.vessels.items))


def _answer(found: list[Markup]) -> Answer:
    chip = sync_view.chip()
    if chip.digest != request.form.get("seen"):
        found.append(partial("#chip", part("chip", chip)))
    return str(Markup("").join(found)) if found else Response(status=204)
