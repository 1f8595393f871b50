"""The sync's API for programs, as a plain Flask blueprint that any application mounts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, current_app, request
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.exceptions import HTTPException

from arus.errors import (
    CatchupBusyError,
    CatchupOffError,
    CatchupRequestError,
    ChangeError,
    LogUnavailableError,
    NotAshoreError,
    UnknownCatchupError,
    UnknownChangeError,
)

from .access import Rule, guard
from .arguments import load_body, load_query
from .operations import OPERATIONS, ApiOperation
from .problems import InvalidError, problem, problem_of, sentence

_STATUSES: dict[type[Exception], int] = {
    UnknownChangeError: 404,
    UnknownCatchupError: 404,
    NotAshoreError: 404,
    ChangeError: 409,
    CatchupOffError: 409,
    CatchupBusyError: 429,
    LogUnavailableError: 503,
}
#: `Retry-After` by status, in seconds.
_RETRY_AFTER = {429: "60", 503: "5"}


def sync_api(
    name: str = "arus_api", *, allow: Rule | None = None, url_prefix: str = "/api/sync"
) -> Blueprint:
    """Return the blueprint of the API, with a route for each of `OPERATIONS`; errors are problem+json.

    :param name: the blueprint's name.
    :param allow: the access rule; without one only an application in debug mode answers.
    :param url_prefix: the URL prefix, unless `register_blueprint` sets another.
    """
    blueprint = Blueprint(name, __name__, url_prefix=url_prefix)
    actions = {operation.name: operation.action for operation in OPERATIONS}
    guard(blueprint, allow, actions, otherwise=True)
    for operation in OPERATIONS:
        blueprint.add_url_rule(
            operation.rule, operation.name, _view(operation), methods=[operation.method]
        )
    blueprint.register_error_handler(HTTPException, problem_of)
    blueprint.register_error_handler(CatchupRequestError, _refuse)
    for error, status in _STATUSES.items():
        blueprint.register_error_handler(error, _teller(status))
    for failure in (OperationalError, InterfaceError, PoolTimeoutError):
        blueprint.register_error_handler(failure, _fail)
    return blueprint


def _view(operation: ApiOperation) -> Callable[..., Response]:
    def view(**values: Any) -> Response:
        if operation.query is not None:
            values["query"] = load_query(operation.query(), request)
        if operation.body is not None:
            values["document"] = load_body(operation.body(), request)
        return operation.view(**values)

    view.__name__ = operation.name
    view.__doc__ = operation.summary
    return view


def _refuse(error: CatchupRequestError) -> Response:
    return problem_of(InvalidError(error.errors))


def _teller(status: int) -> Callable[[Exception], Response]:
    def tell(error: Exception) -> Response:
        return _problem(status, sentence(error))

    return tell


def _fail(error: SQLAlchemyError) -> ResponseReturnValue:
    """Answer a database failure: by the application's own error handler if it has one, otherwise with 503."""
    handlers = current_app.error_handler_spec[None][None]
    for kind in type(error).__mro__:
        if kind in handlers and issubclass(kind, SQLAlchemyError):
            answer: ResponseReturnValue = current_app.ensure_sync(handlers[kind])(error)
            return answer
    current_app.logger.error("[MQTT Reliable Sync] the database can't be used: %s", error)
    return _problem(503, "The database can't be used at the moment; try again later.")


def _problem(status: int, detail: str) -> Response:
    headers = {"Retry-After": _RETRY_AFTER[status]} if status in _RETRY_AFTER else {}
    return problem(status, detail, headers=headers)
