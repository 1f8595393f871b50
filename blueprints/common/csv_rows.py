"""Rows as CSV (RFC 4180), streamed in batches, so that a list of any length needs the memory of one of them.

Numbers are as in JSON. Times are in UTC too, but with a space and without the Z: only so do LibreOffice and Excel take them
for times. There is no byte order mark: programs would read it as a part of the first heading, and LibreOffice does not
need it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import orjson
from flask import Response, current_app
from marshmallow import Schema
from marshmallow.fields import Field

from .fields import Timestamp

#: Rows that are read at a time.
BATCH = 500
#: Spreadsheets take a text that begins with one of these for a formula (OWASP, CSV injection): it gets an apostrophe.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_response(schema: Schema, batches: Iterator[Sequence[Any]], name: str) -> Response:
    """Return rows as a file to download; the first batch is read at once, so that what it raises is answered.

    :param name: of the file, without its ending.
    """
    columns = schema.dump_fields
    headings = [column.data_key or key for key, column in columns.items()]

    def part() -> bytes | None:
        rows = next(batches, None)
        if rows is None:
            return None
        return lines(
            [cell(column.serialize(key, row), column) for key, column in columns.items()]
            for row in rows
        )

    response = Response(
        _parts(current_app.app_context, lines([headings]) + (part() or b""), part),
        content_type="text/csv; charset=utf-8",
    )
    response.headers["Content-Disposition"] = f'attachment; filename="{name}.csv"'
    return response


def _parts(
    context: Callable[[], AbstractContextManager[object]],
    first: bytes,
    following: Callable[[], bytes | None],
) -> Iterator[bytes]:
    part: bytes | None = first
    while part is not None:
        yield part
        # A context for each part: with its end its transaction ends. One that stays open while a slow client reads would
        # make SQLite's WAL grow.
        with context():
            part = following()


def cell(value: Any, column: Field[Any]) -> Any:
    """Return a value of JSON as a cell; a text never is a formula."""
    match value:
        case str() if isinstance(column, Timestamp):
            return value.removesuffix("Z").replace("T", " ")
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return f"'{value}" if value.startswith(_FORMULA) else value
        case dict() | list():
            return orjson.dumps(value).decode()
    return value


def lines(rows: Iterable[Sequence[Any]]) -> bytes:
    """Return lines of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()
