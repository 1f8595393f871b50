"""The sync's API as a list of operations, each with its view and the schemas of its request and response.

`sync_api` makes the routes from this list; an application can describe them in its OpenAPI document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from flask import Response, url_for
from marshmallow import Schema
from msgspec import Struct, field

from arus.follower.fleet_query import FILTERS, FleetQuery, InvalidCursorError
from arus.runtime import current

from .access import Action
from .problems import InvalidError
from .schemas import (
    CURSOR_ERROR,
    CatchupQueuedSchema,
    CatchupRequestSchema,
    CatchupSchema,
    ChangesPageSchema,
    ChangesQuerySchema,
    FleetPageSchema,
    FleetQuerySchema,
    HealthSchema,
    OneChangeSchema,
)


class ApiOperation(Struct, frozen=True):
    """One operation of the API."""

    #: The endpoint, without the blueprint's name.
    name: str
    method: str
    #: The Flask rule, relative to the blueprint's prefix.
    rule: str
    #: Called with the rule's values, and with `query` or `document` if the operation has one.
    view: Callable[..., Response]
    #: The key in `TAGS` of its group.
    tag: str
    #: What it does, in a sentence; `description` adds details.
    summary: str
    #: The schema of a successful response.
    answer: type[Schema]
    description: str = ""
    status: int = 200
    success: str = "OK"
    #: Headers of that response, as OpenAPI header objects.
    headers: Mapping[str, Any] = field(default_factory=dict)
    query: type[Schema] | None = None
    body: type[Schema] | None = None
    #: Its error responses (problem+json) by status. Those that any operation may return are not listed: 400, 403,
    #: 413, 415, 422 and 503.
    problems: Mapping[int, str] = field(default_factory=dict)
    #: What the access rule is asked about.
    action: Action = "view"


def _health() -> Response:
    return _json(current().health())


def _changes(query: dict[str, Any]) -> Response:
    page = current().changes.page(
        states=query.get("state", ()),
        entity=query.get("entity"),
        limit=query["limit"],
        cursor=query.get("cursor"),
    )
    items = [change.document() for change in page.items]
    return _json({"items": items, "next": None if page.next is None else str(page.next)})


def _change(message_id: str) -> Response:
    return _json(current().changes.find(message_id).document())


def _retry(message_id: str) -> Response:
    return _json(current().changes.retry(message_id).document())


def _discard(message_id: str) -> Response:
    return _json(current().changes.discard(message_id).document())


def _request_catchup(document: object) -> Response:
    queued = current().catchups.request(document)
    place = url_for(".catchup", catchup_id=queued.catchup_id)
    answer = {"catchupId": queued.catchup_id, "status": queued.status}
    return _json(answer, 202, {"Location": place})


def _catchup(catchup_id: str) -> Response:
    return _json(current().catchups.find(catchup_id).document())


def _fleet(query: dict[str, Any]) -> Response:
    filters = {name: query[name] for name in FILTERS if name in query}
    wanted = FleetQuery(query["q"], filters, limit=query["limit"], cursor=query.get("cursor"))
    try:
        page = current().fleet.page(wanted)
    except InvalidCursorError as error:
        raise InvalidError({"cursor": [CURSOR_ERROR]}) from error
    return _json({"items": [vessel.document() for vessel in page.items], "next": page.next})


def _json(
    document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(document), status, headers, mimetype="application/json")


#: The groups of operations, with their descriptions.
TAGS: Mapping[str, str] = {
    "changes": "Changes: the change log, and the state of each change",
    "catchups": "Catch-ups: rows sent again for receivers that have missed something",
    "fleet": "Fleet: the vessels that are followed ashore",
    "sync": "Sync: the health of the synchronisation",
}

_UNKNOWN_CHANGE = "The log has no such change."

OPERATIONS: tuple[ApiOperation, ...] = (
    ApiOperation(
        "changes",
        "GET",
        "/changes",
        _changes,
        tag="changes",
        summary="List, newest first.",
        query=ChangesQuerySchema,
        answer=ChangesPageSchema,
    ),
    ApiOperation(
        "change",
        "GET",
        "/changes/<message_id>",
        _change,
        tag="changes",
        summary="Read one, with its row.",
        answer=OneChangeSchema,
        problems={404: _UNKNOWN_CHANGE},
    ),
    ApiOperation(
        "retry",
        "POST",
        "/changes/<message_id>/retry",
        _retry,
        action="decide",
        tag="changes",
        summary="Send a quarantined change again, with its row's current data.",
        answer=OneChangeSchema,
        problems={404: _UNKNOWN_CHANGE, 409: "It is not quarantined, or still can't be sent."},
    ),
    ApiOperation(
        "discard",
        "POST",
        "/changes/<message_id>/discard",
        _discard,
        action="decide",
        tag="changes",
        summary="Discard a quarantined change: it is never sent.",
        answer=OneChangeSchema,
        problems={404: _UNKNOWN_CHANGE, 409: "It is not quarantined."},
    ),
    ApiOperation(
        "request_catchup",
        "POST",
        "/catchup",
        _request_catchup,
        action="catchup",
        tag="catchups",
        summary="Request that rows are sent again on the `catchup/` topics, including deletes.",
        description="Without `since`, `sinceSeq` or `cursor`: all rows.",
        body=CatchupRequestSchema,
        answer=CatchupQueuedSchema,
        status=202,
        success="Queued; it is sent as soon as the link has capacity.",
        headers={
            "Location": {"schema": {"type": "string"}, "description": "the URL of its progress"}
        },
        problems={
            409: "LOCAL_MODE is false: nothing is captured here.",
            429: "Too many requests, or too many catch-ups waiting.",
        },
    ),
    ApiOperation(
        "catchup",
        "GET",
        "/catchup/<catchup_id>",
        _catchup,
        tag="catchups",
        summary="Read the progress of a catch-up.",
        answer=CatchupSchema,
        problems={404: "There is no such catch-up, or no longer."},
    ),
    ApiOperation(
        "fleet",
        "GET",
        "/fleet",
        _fleet,
        tag="fleet",
        summary="List the vessels that are followed here, by id.",
        description="Ashore only. A copy was last found equal to its vessel's tables at `equalAt`; the last audit was at"
        " `auditedAt`. If these differ, the last audit found a difference.",
        query=FleetQuerySchema,
        answer=FleetPageSchema,
        problems={404: "Nothing is followed here: LOCAL_MODE is true."},
    ),
    ApiOperation(
        "health",
        "GET",
        "/health",
        _health,
        action="health",
        tag="sync",
        summary="Return the state of the sync: 200 while the database can be reached, whatever the broker's"
        " state.",
        answer=HealthSchema,
        problems={503: "The database can't be reached."},
    ),
)
