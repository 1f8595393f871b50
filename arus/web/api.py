"""The sync's API for programs, as a plain Flask blueprint: what an application mounts that has no API of its own.

The vessel app describes the same in OpenAPI (`blueprints/sync`).
"""

from __future__ import annotations

import http
from typing import Any

import orjson
from flask import Blueprint, Response, current_app, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from arus.changes import MAX_LIMIT
from arus.errors import (
    CatchupBusyError,
    CatchupOffError,
    CatchupRequestError,
    ChangeError,
    LogUnavailableError,
    UnknownCatchupError,
    UnknownChangeError,
)
from arus.extension import AppState, state_of_app
from arus.message import ChangeState

from .access import Rule, guard

DEFAULT_LIMIT = 50


def sync_api(
    name: str = "arus_api", *, allow: Rule | None = None, url_prefix: str = "/api/sync"
) -> Blueprint:
    """Return the blueprint of the API: `/health`, `/changes`, `/catchup`; errors are problem+json.

    :param name: the blueprint's name.
    :param allow: who may use it; everybody when not given.
    :param url_prefix: where it is, unless `register_blueprint` says otherwise.
    """
    blueprint = Blueprint(name, __name__, url_prefix=url_prefix)
    guard(blueprint, allow, otherwise=True)
    blueprint.register_error_handler(HTTPException, _failed)
    for error, status in _STATUSES.items():
        blueprint.register_error_handler(error, _teller(status))

    @blueprint.get("/health")
    def health() -> ResponseReturnValue:
        """Where the sync stands."""
        return _json(_state().health())

    @blueprint.get("/changes")
    def changes() -> ResponseReturnValue:
        """A page of the change log, newest first."""
        page = _state().changes(
            states=_states(), entity=_entity(), limit=_limit(), cursor=_cursor()
        )
        items = [change.document() for change in page.items]
        return _json({"items": items, "next": None if page.next is None else str(page.next)})

    @blueprint.get("/changes/<message_id>")
    def change(message_id: str) -> ResponseReturnValue:
        """One change, with the row that it carries."""
        return _json(_state().change(message_id).document())

    @blueprint.post("/changes/<message_id>/retry")
    def retry(message_id: str) -> ResponseReturnValue:
        """Send a quarantined one after all, with its row's present data."""
        return _json(_state().retry_change(message_id).document())

    @blueprint.post("/changes/<message_id>/discard")
    def discard(message_id: str) -> ResponseReturnValue:
        """Give a quarantined one up."""
        return _json(_state().discard_change(message_id).document())

    @blueprint.post("/catchup")
    def ask() -> ResponseReturnValue:
        """Ask that rows are sent again."""
        try:
            document = orjson.loads(request.get_data())
        except orjson.JSONDecodeError as error:
            return _problem(400, f"The body is not valid JSON: {error}")
        queued = _state().request_catchup(document, "http")
        place = url_for(f"{name}.catchup", catchup_id=queued.catchup_id)
        answer = {"catchupId": queued.catchup_id, "status": queued.status}
        return _json(answer, 202, {"Location": place})

    @blueprint.get("/catchup/<catchup_id>")
    def catchup(catchup_id: str) -> ResponseReturnValue:
        """How far a catch-up has come."""
        return _json(_state().catchup(catchup_id).document())

    return blueprint


_STATUSES: dict[type[Exception], int] = {
    UnknownChangeError: 404,
    UnknownCatchupError: 404,
    ChangeError: 409,
    CatchupOffError: 409,
    CatchupRequestError: 422,
    CatchupBusyError: 429,
    LogUnavailableError: 503,
}


class _QueryError(HTTPException):
    code = 422


def _state() -> AppState:
    return state_of_app(current_app)


def _states() -> list[ChangeState]:
    wanted = [word for text in request.args.getlist("state") for word in text.split(",") if word]
    unknown = sorted(set(wanted) - set(ChangeState))
    if unknown:
        raise _QueryError(f"state: must be one of {', '.join(ChangeState)}")
    return [state for state in ChangeState if state in wanted]


def _entity() -> str | None:
    entity = request.args.get("entity")
    if entity is not None and entity not in _state().entities():
        raise _QueryError(f"entity: must be one of {', '.join(_state().entities())}")
    return entity


def _limit() -> int:
    given = request.args.get("limit", str(DEFAULT_LIMIT))
    if not (given.isascii() and given.isdigit() and len(given) < 6 and 0 < int(given) <= MAX_LIMIT):
        raise _QueryError(f"limit: takes 1 to {MAX_LIMIT}")
    return int(given)


def _cursor() -> int | None:
    given = request.args.get("cursor")
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 19 and int(given)):
        raise _QueryError("cursor: not a cursor of this list")
    return int(given)


def _json(
    document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(document), status, headers, mimetype="application/json")


def _problem(status: int, detail: str, errors: dict[str, list[str]] | None = None) -> Response:
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.path,
    }
    if errors:
        document["errors"] = errors
    return Response(orjson.dumps(document), status, content_type="application/problem+json")


def _failed(error: HTTPException) -> ResponseReturnValue:
    if error.response is not None:
        return error.get_response()
    return _problem(error.code or 500, error.description or "")


def _teller(status: int) -> Any:
    def tell(error: Exception) -> Response:
        text = str(error)
        answer = _problem(status, f"{text[:1].upper()}{text[1:]}.", getattr(error, "errors", None))
        if status == 429:
            answer.headers["Retry-After"] = "60"
        return answer

    return tell
