"""Entries of the change log: what happened to a row, and the state of its delivery."""

from __future__ import annotations

import os
import string
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

_ALPHABET = string.digits + string.ascii_lowercase
#: The character for each value of a byte.
_CHARACTERS = bytes(ord(_ALPHABET[byte % len(_ALPHABET)]) for byte in range(256))


class Operation(StrEnum):
    """What happened to a row."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class ChangeState(StrEnum):
    """The state of a change's delivery to the broker."""

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
    #: Dropped when the queue was full, or discarded by a person.
    DROPPED = "dropped"


class Receipt(Struct, frozen=True):
    """The result of `publish_change`: proof that the change is in the log."""

    #: Identifies the change permanently, on each redelivery.
    message_id: str
    #: The row as it is in the log, JSON: a response can be built from it without serialising the row again.
    #: None if it could not be serialised.
    data: bytes | None = None
    #: The version of the row in this change; 0 if it is not known.
    version: int = 0


# A named tuple: creating a frozen dataclass takes four times as long, and draining the queue does little else.
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
    #: Who made the change; None if that is not known, or not sent.
    actor: str | None = None


def new_message_id(milliseconds: int) -> str:
    """Return a fresh id: the time, an underscore and nine random characters."""
    return f"{milliseconds}_{os.urandom(9).translate(_CHARACTERS).decode()}"
