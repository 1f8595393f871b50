"""`/api/mqtt/reliable-sync/catchup`: asks that rows are sent again, and tells how far that has come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import url_for
from flask_smorest import Blueprint

from arus.errors import (
    CatchupBusyError,
    CatchupOffError,
    CatchupRequestError,
    UnknownCatchupError,
)
from extensions import limiter, sync
from extensions.api import InvalidError, ProblemError, sentence

from .schemas import CatchupQueuedSchema, CatchupRequestSchema, CatchupSchema

blueprint = Blueprint(
    "catchups",
    __name__,
    url_prefix="/api/mqtt/reliable-sync/catchup",
    description="Catch-ups: rows sent again for receivers that have missed something",
)


@blueprint.route("", methods=["POST"])
@limiter.limit("60 per minute")
@blueprint.arguments(
    CatchupRequestSchema, example={"entity": "all", "since": "2026-11-20T06:00:00.000Z"}
)
@blueprint.response(
    202,
    CatchupQueuedSchema,
    description="Queued; it is sent as soon as the link has room.",
    headers={
        "Location": {"schema": {"type": "string"}, "description": "where to see its progress"}
    },
)
@blueprint.alt_response(409, description="LOCAL_MODE is false: nothing is captured here.")
@blueprint.alt_response(429, description="Too many were asked for, or wait already.")
def request_catchup(document: Mapping[str, Any]) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Ask that rows are sent again on the `catchup/` topics, deletes included.

    Without `since`, `sinceSeq` or `cursor`: all rows.
    """
    try:
        queued = sync.request_catchup(document)
    except CatchupRequestError as error:
        raise InvalidError(error.errors) from error
    except CatchupOffError as error:
        raise ProblemError(409, sentence(error)) from error
    except CatchupBusyError as error:
        raise ProblemError(429, sentence(error), headers={"Retry-After": "60"}) from error
    location = url_for("catchups.read_catchup", catchup_id=queued.catchup_id)
    answer = {"catchup_id": queued.catchup_id, "status": queued.status}
    return answer, 202, {"Location": location}


@blueprint.route("/<catchup_id>")
@blueprint.response(200, CatchupSchema)
@blueprint.alt_response(404, description="There is no such catch-up (any more).")
def read_catchup(catchup_id: str) -> Any:
    """Read how far a catch-up has come."""
    try:
        return sync.catchup(catchup_id)
    except UnknownCatchupError as error:
        raise ProblemError(404, sentence(error)) from error
