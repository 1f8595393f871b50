"""The words of the protocol: operations, states, entries of the change log, and their bytes on the wire."""

from __future__ import annotations

import os
import string
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple

import orjson

from .errors import RefusedMessageError

_ALPHABET = string.digits + string.ascii_lowercase
#: Types whose values the encoder never writes as something else.
_EXACT = frozenset({str, int, bool, type(None)})


class Operation(StrEnum):
    """What happened to a row."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class ChangeState(StrEnum):
    """Where a change is on its way to the broker."""

    #: Committed, not sent yet.
    PENDING = "pending"
    #: Sent, not acknowledged yet.
    IN_FLIGHT = "in_flight"
    #: Acknowledged by the broker.
    DELIVERED = "delivered"
    #: Can't be sent; kept with its reason until a person retries or discards it.
    QUARANTINED = "quarantined"
    #: Replaced by a newer change of the same row when the queue was full.
    SUPERSEDED = "superseded"
    #: Given up when the queue was full, or discarded by a person.
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the caller of `publish_change` gets: proof that the change is in the log."""

    #: Identifies the change for ever, on each redelivery.
    message_id: str
    #: The row as it is in the log, JSON: an answer can be made of it without serialising the row again.
    #: None where it could not be serialised.
    data: bytes | None = None


# A named tuple: a frozen dataclass takes four times as long to make, and a drain makes little else.
class Entry(NamedTuple):
    """A numbered entry of the change log, ready to be sent."""

    id: int
    seq: int
    #: `seq` of the change before this one on the same topic; 0 for the first.
    previous_seq: int
    message_id: str
    #: Topic under the prefix.
    topic: str
    qos: int
    entity: str
    operation: Operation
    row_id: str
    version: int
    #: Milliseconds since the epoch, UTC.
    committed_at: int
    #: The row as JSON.
    data: bytes


def now_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def iso(milliseconds: int) -> str:
    """Return a time as ISO 8601 in UTC with milliseconds and `Z`."""
    seconds, fraction = divmod(milliseconds, 1000)
    return f"{_iso_second(seconds)}.{fraction:03d}Z"


def iso_or_none(milliseconds: int | None) -> str | None:
    """Return a time as `iso` does, where there is one."""
    return None if milliseconds is None else iso(milliseconds)


@lru_cache(maxsize=64)
def _iso_second(seconds: int) -> str:
    # Messages come in bursts of the same second, and formatting it costs as much as encoding one.
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def new_message_id(milliseconds: int) -> str:
    """Return a fresh id: the time, an underscore and nine random characters."""
    number = int.from_bytes(os.urandom(8), "big")
    characters = ""
    for _ in range(9):
        number, digit = divmod(number, 36)
        characters += _ALPHABET[digit]
    return f"{milliseconds}_{characters}"


def read_object(payload: bytes, limit: int) -> dict[str, Any]:
    """Return the JSON object that an inbound message is.

    :raises RefusedMessageError: it is none, or of more than `limit` bytes.
    """
    if len(payload) > limit:
        raise RefusedMessageError(f"{len(payload)} bytes are too many")
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise RefusedMessageError(f"not JSON: {error}") from error
    if not isinstance(body, dict):
        raise RefusedMessageError("not a JSON object")
    return body


def read_time(body: Mapping[str, Any]) -> int:
    """Return an inbound message's `timestamp` in milliseconds since the epoch; without a zone it is UTC.

    :raises RefusedMessageError: it is no time.
    """
    value = body.get("timestamp")
    try:
        if not isinstance(value, str) or len(value) > 40:
            raise ValueError  # one answer to all that is no time
        moment = datetime.fromisoformat(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise RefusedMessageError("timestamp is not a time in ISO 8601") from error


def encode_row(data: Any) -> bytes:
    """Return what a schema has dumped of a row as JSON: the same values, or an error.

    :raises ValueError: a value would be written as another one: NaN and Infinity as null, an offset from UTC
        that has seconds as one that has none. The message begins with the value's path.
    :raises TypeError: the encoder knows no JSON for a value: bytes, sets, integers beyond 64 bits, keys that
        are no strings, texts with lone surrogates.
    """
    encoded = orjson.dumps(data)
    _refuse_inexact(data, "")
    return encoded


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
    # Each row on each request comes here: only what needs a second look costs a call.
    for key, value in items:
        kind = type(value)
        if kind not in _EXACT and not (kind is float and isfinite(value)):
            _refuse_inexact(value, f"{before}{key}{after}")


def encode_change(entry: Entry, *, epoch: str, vessel_id: str) -> bytes:
    """Return the bytes of a `data_change` message; the same entry always gives the same bytes."""
    return orjson.dumps(_change("data_change", entry, epoch, vessel_id))


def encode_catchup(
    entry: Entry, *, epoch: str, vessel_id: str, catchup_id: str, sequence: int, total: int
) -> bytes:
    """Return the bytes of one item of a catch-up.

    :param sequence: which of the `total` items it is, from 0.
    """
    item = _change("catchup", entry, epoch, vessel_id)
    item |= {"catchupId": catchup_id, "sequence": sequence, "total": total}
    return orjson.dumps(item)


def _change(kind: str, entry: Entry, epoch: str, vessel_id: str) -> dict[str, Any]:
    return {
        "type": kind,
        "entity": entry.entity,
        "operation": entry.operation,
        "data": orjson.Fragment(entry.data),
        "timestamp": iso(entry.committed_at),
        "messageId": entry.message_id,
        "vesselId": vessel_id,
        "epoch": epoch,
        "seq": entry.seq,
        "previousSeq": entry.previous_seq,
        "version": entry.version,
    }


def encode_status(
    status: str,
    *,
    vessel_id: str,
    generation: int,
    epoch: str,
    seq: int,
    topics: Mapping[str, int],
    pending: int,
    at: int,
) -> bytes:
    """Return the bytes of a `system/status` message.

    `epoch` and `seq` (the highest number given out so far) let a vessel restored from an old backup
    notice that its log is behind what it has already published; `topics` and `pending` let a follower
    notice that the last change of a topic never reached it.

    :param topics: the highest number of each topic.
    :param pending: changes that are not delivered.
    """
    return orjson.dumps(
        {
            "status": status,
            "vesselId": vessel_id,
            "timestamp": iso(at),
            "generation": generation,
            "epoch": epoch,
            "seq": seq,
            "topics": topics,
            "pending": pending,
        }
    )
