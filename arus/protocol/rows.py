"""Rows as JSON: the only encoder for rows that a schema has dumped, and the decoder for received rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from math import isfinite
from typing import Any

import msgspec
import orjson

from arus.errors import RefusedMessageError

#: Maximum nesting of a received row.
MAX_DEPTH = 32
#: Maximum length of a row's id in characters.
MAX_ID = 64

_SURROGATE = re.compile("[\ud800-\udfff]")

#: Types whose values the encoder always writes exactly.
_EXACT = frozenset({str, int, bool, type(None)})
#: Types of columns whose values are written as text, unless the schema has dumped them in another form.
TEXTS = (Decimal, bytes, bytearray, memoryview, timedelta)


def encode_row(data: Any) -> bytes:
    """Return a row that a schema has dumped as JSON with exactly the same values.

    :raises ValueError: a value would be written inexactly: NaN and Infinity as null, an offset from UTC with
        seconds as one without. The message begins with the value's path.
    :raises TypeError: a value can't be written as JSON: bytes, sets, integers beyond 64 bits, keys that are not
        strings, texts with lone surrogates.
    """
    encoded = orjson.dumps(data)
    # Most rows have no value that needs a look. This runs for each row of each request.
    if type(data) is not dict or not _EXACT.issuperset(map(type, data.values())):
        _refuse_inexact(data, "")
    return encoded


def text_of(value: Any) -> Any:
    """Return the text for a value of one of the `TEXTS`: bytes in base64 (RFC 4648, 4), lengths of time by ISO 8601."""
    return msgspec.to_builtins(value)


def is_written_alike(one: Any, other: Any) -> bool:
    """Whether two equal values are the same in JSON.

    It tells `true` from 1, 1.50 from 1.5, a moment in one zone from the same in another, and the order of keys.
    """
    if one is None or type(one) is type(other) is str:  # as nearly always
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return all(map(is_written_alike, one.items(), other.items()))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return all(map(is_written_alike, one, other))
    if type(one) is not type(other):
        return False
    if type(one) is datetime and one.tzinfo is other.tzinfo:  # repr takes much longer
        return True
    return repr(one) == repr(other)


def typed_value(kind: Any, value: Any) -> Any:
    """Return a loaded value as the type of its column: a schema's field may have left it as it was received.

    :raises ValueError: it has no such form.
    """
    if value is None or isinstance(value, kind):
        return value
    return kind(value) if issubclass(kind, Enum) else msgspec.convert(value, kind)


def _refuse_inexact(value: Any, path: str) -> None:
    kind = type(value)
    if isinstance(value, dict):
        _refuse_inexact_items(value.items(), f"{path}." if path else "", "")
    elif isinstance(value, list | tuple):
        _refuse_inexact_items(enumerate(value), f"{path}[", "]")
    elif kind is float and not isfinite(value):
        raise ValueError(f"{path} is {value}, and JSON has no such number")
    elif isinstance(value, datetime):
        offset = value.utcoffset()
        if offset is not None and offset % timedelta(minutes=1):
            raise ValueError(f"{path} has an offset from UTC that is not in whole minutes")
    elif isinstance(value, Enum):
        _refuse_inexact(value.value, path)
    elif is_dataclass(value):
        names = [field.name for field in fields(value) if not field.name.startswith("_")]
        members = ((name, getattr(value, name)) for name in names)
        _refuse_inexact_items(members, f"{path}." if path else "", "")


def _refuse_inexact_items(items: Iterable[tuple[Any, Any]], before: str, after: str) -> None:
    # This runs for each row of each request: only values that need a closer check cost a call.
    for key, value in items:
        kind = type(value)
        if kind not in _EXACT and not (kind is float and isfinite(value)):
            _refuse_inexact(value, f"{before}{key}{after}")


def decode_row(encoded: bytes | memoryview) -> dict[str, Any]:
    """Return the row in a message.

    :raises RefusedMessageError: it is not a JSON object.
    """
    try:
        data = orjson.loads(encoded)
    except orjson.JSONDecodeError as error:
        raise RefusedMessageError(f"data is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise RefusedMessageError("data is not an object")
    return data


def too_deep(value: Any, levels: int = MAX_DEPTH) -> bool:
    """Return whether JSON is nested deeper than `levels`."""
    if type(value) is dict:
        value = value.values()
    elif type(value) is not list:
        return False
    if levels == 0:
        return True
    # This runs for each received row: only containers cost a call.
    for item in value:
        if (type(item) is dict or type(item) is list) and too_deep(item, levels - 1):
            return True
    return False


def row_id_of(data: dict[str, Any], id_key: str) -> str:
    """Return the id of a received row.

    :raises RefusedMessageError: it has no valid id.
    """
    value = data.get(id_key)
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or not is_row_id(text):
        raise RefusedMessageError(
            f"the row's id is not a text of 1 to {MAX_ID} characters without NUL"
        )
    return text


def is_row_id(text: str) -> bool:
    """Whether every database can store a text as the id of a row."""
    return 0 < len(text) <= MAX_ID and "\0" not in text and not _SURROGATE.search(text)


def refused_id(encoded: bytes | memoryview, id_key: str) -> str:
    """Return the id of a row that is refused, as it was received; empty if it can't be read."""
    try:
        data = json.loads(
            bytes(encoded)
        )  # reads more than orjson does: long integers, lone surrogates
        value = data.get(id_key) if isinstance(data, dict) else None
        text = str(value) if type(value) is int else value
    except (ValueError, RecursionError):
        return ""
    return text if isinstance(text, str) else ""
