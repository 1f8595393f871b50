"""Requests with a NUL character are refused: PostgreSQL stores no such text, and nobody types one."""

from __future__ import annotations

from collections.abc import Iterable

from flask import request

from extensions.api import ProblemError

_DETAIL = "A text of the request has a NUL character."


def refuse_nul() -> None:
    """Refuse a request whose path, query or form has a NUL character; texts in JSON are their schema's.

    :raises ProblemError: it has one: 404 in the path, else 422 with the name of the field.
    """
    if "\0" in request.path:
        raise ProblemError(404, "There is nothing at this address.")
    if b"%00" in request.query_string or b"\0" in request.query_string:
        _refuse_fields(request.args.items(multi=True))
    if not request.path.startswith("/api/"):  # which takes no forms, and says so
        _refuse_fields(request.form.items(multi=True))


def _refuse_fields(fields: Iterable[tuple[str, str]]) -> None:
    errors = {name: [_DETAIL] for name, value in fields if "\0" in name or "\0" in value}
    if errors:
        raise ProblemError(422, _DETAIL, errors=errors)
