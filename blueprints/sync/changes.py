"""`/api/mqtt/reliable-sync/changes`: the change log, and what a person does about what can't be sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask_smorest import Blueprint

from arus.changes import ChangeRecord
from arus.errors import ChangeError, UnknownChangeError
from arus.message import ChangeState
from extensions import sync
from extensions.api import ProblemError, sentence

from .schemas import ChangesPageSchema, ChangesQuerySchema, OneChangeSchema

blueprint = Blueprint(
    "changes",
    __name__,
    url_prefix="/api/mqtt/reliable-sync/changes",
    description="Changes: what became of each on its way ashore",
)


@blueprint.route("")
@blueprint.arguments(ChangesQuerySchema, location="query")
@blueprint.response(200, ChangesPageSchema)
def list_changes(query: dict[str, Any]) -> dict[str, Any]:
    """List, newest first."""
    page = sync.changes(
        states=[ChangeState(state) for state in query.get("state", ())],
        entity=query.get("entity"),
        limit=query["limit"],
        cursor=query.get("cursor"),
    )
    return {"items": page.items, "next": page.next}


@blueprint.route("/<message_id>")
@blueprint.response(200, OneChangeSchema)
@blueprint.alt_response(404, description="The log has no such change.")
def read_change(message_id: str) -> ChangeRecord:
    """Read one, with the row that it carries."""
    return _answer(sync.change, message_id)


@blueprint.route("/<message_id>/retry", methods=["POST"])
@blueprint.response(200, OneChangeSchema)
@blueprint.alt_response(404, description="The log has no such change.")
@blueprint.alt_response(409, description="It is not quarantined, or still can't be sent.")
def retry_change(message_id: str) -> ChangeRecord:
    """Send a quarantined one after all, with its row's present data."""
    return _answer(sync.retry_change, message_id)


@blueprint.route("/<message_id>/discard", methods=["POST"])
@blueprint.response(200, OneChangeSchema)
@blueprint.alt_response(404, description="The log has no such change.")
@blueprint.alt_response(409, description="It is not quarantined.")
def discard_change(message_id: str) -> ChangeRecord:
    """Give a quarantined one up: it is never sent."""
    return _answer(sync.discard_change, message_id)


def _answer(act: Callable[[str], ChangeRecord], message_id: str) -> ChangeRecord:
    try:
        return act(message_id)
    except UnknownChangeError as error:
        raise ProblemError(404, sentence(error)) from error
    except ChangeError as error:
        raise ProblemError(409, sentence(error)) from error
