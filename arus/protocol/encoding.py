"""Encoding and decoding of messages. Received bytes are untrusted until they are decoded here.

Decoding checks a message against its struct (`arus.protocol.messages`), its size, its encoding, and that its
numbers are consistent. The receiver checks whose message it is and whether its row fits a table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec import UNSET, Raw

from arus.errors import RefusedMessageError

from .entries import Entry
from .messages import (
    Addressed,
    CatchupBegin,
    CatchupEnd,
    CatchupItem,
    Claim,
    DataChange,
    Digest,
    Message,
    Numbered,
    ProposedChange,
    RollCall,
    RowMessage,
    Status,
    Watermark,
)
from .times import iso, parse_time

#: Maximum size in bytes of a vessel's message, of a follower's watermark, of a proposal, and of a roll call.
MAX_PUBLISHED = 4_194_304
MAX_WATERMARK = 65_536
MAX_PROPOSAL = 262_144
MAX_ROLL_CALL = 4_096
#: How far a proposal's version may be above the version that it started from.
MAX_STEPS = 10_000
#: Maximum length of a reason in characters: it may quote what was received.
_MAX_REASON = 200

#: Messages that a vessel publishes about rows; `type` distinguishes them.
Published = DataChange | CatchupItem | CatchupBegin | CatchupEnd | Digest
_Typed = Published | ProposedChange | Claim
_UNPUBLISHED = (ProposedChange, Claim)

_M = TypeVar("_M")

_encoder = msgspec.json.Encoder()
# One decoder for all types: a decoder for a single struct would accept a message without a `type`.
_typed: msgspec.json.Decoder[_Typed] = msgspec.json.Decoder(_Typed)
_status = msgspec.json.Decoder(Status)
_numbered = msgspec.json.Decoder(Numbered)
_watermark = msgspec.json.Decoder(Watermark)
_roll_call = msgspec.json.Decoder(RollCall)
_addressed = msgspec.json.Decoder(Addressed)


def encode(message: Message | Mapping[str, Message]) -> bytes:
    """Return a message, or its parts by name, as JSON."""
    return _encoder.encode(message)


def encode_change(entry: Entry, *, epoch: str, vessel_id: str) -> bytes:
    """Return the bytes of a `data_change` message; they are always the same for the same entry."""
    return _encoder.encode(
        DataChange(
            entity=entry.entity,
            operation=entry.operation,
            data=Raw(entry.data),
            timestamp=iso(entry.committed_at),
            message_id=entry.message_id,
            vessel_id=vessel_id,
            epoch=epoch,
            seq=entry.seq,
            previous_seq=entry.previous_seq,
            version=entry.version,
            actor=UNSET if entry.actor is None else entry.actor,
        )
    )


def encode_catchup(
    entry: Entry, *, epoch: str, vessel_id: str, catchup_id: str, sequence: int, total: int
) -> bytes:
    """Return the bytes of one item of a catch-up.

    :param sequence: the index of the item among the `total` items, from 0.
    """
    return _encoder.encode(
        CatchupItem(
            entity=entry.entity,
            operation=entry.operation,
            data=Raw(entry.data),
            timestamp=iso(entry.committed_at),
            message_id=entry.message_id,
            vessel_id=vessel_id,
            epoch=epoch,
            seq=entry.seq,
            previous_seq=entry.previous_seq,
            version=entry.version,
            actor=UNSET if entry.actor is None else entry.actor,
            catchup_id=catchup_id,
            sequence=sequence,
            total=total,
        )
    )


def decode_published(payload: bytes) -> Published:
    """Decode a message that a vessel publishes about rows.

    :raises RefusedMessageError: it is not such a message.
    """
    message = _decoded(_typed, payload, MAX_PUBLISHED)
    if isinstance(message, RowMessage):
        _check_numbers(message)
    elif isinstance(message, _UNPUBLISHED):
        raise RefusedMessageError("not a message about rows")
    return message


def decode_damaged(payload: bytes) -> DataChange | CatchupItem | None:
    """Decode what can be read of a message about a row that is not valid UTF-8 or JSON, so that it counts as received.

    Its row must be refused.

    :returns: None if it is not such a message.
    """
    if len(payload) > MAX_PUBLISHED:
        return None
    try:
        # The standard library reads lone surrogates, NaN, and what is left of wrong UTF-8.
        document = json.loads(payload.decode(errors="replace"), parse_constant=lambda _name: None)
        text = json.dumps(document, ensure_ascii=False)
        message = decode_published(text.encode(errors="replace"))
    except (RefusedMessageError, ValueError, RecursionError):
        return None
    return message if isinstance(message, DataChange | CatchupItem) else None


def decode_status(payload: bytes) -> Status:
    """Decode a vessel's status.

    :raises RefusedMessageError: it is not a status.
    """
    return _decoded(_status, payload, MAX_PUBLISHED)


def decode_numbered(payload: bytes) -> Numbered:
    """Decode the number of a vessel's message.

    :raises RefusedMessageError: it has none.
    """
    return _decoded(_numbered, payload, MAX_PUBLISHED)


def decode_watermark(payload: bytes) -> Watermark:
    """Decode a follower's watermark.

    :raises RefusedMessageError: it is not a watermark.
    """
    return _decoded(_watermark, payload, MAX_WATERMARK)


def is_about_another(payload: bytes, vessel_id: str) -> bool:
    """Whether a watermark names another vessel: the first check, before it is decoded in full."""
    if len(payload) > MAX_WATERMARK:
        return False
    try:
        return _addressed.decode(payload).vessel_id not in (None, vessel_id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False  # it will be refused, with the reason


def decode_roll_call(payload: bytes) -> RollCall:
    """Decode a roll call.

    :raises RefusedMessageError: it is not a roll call.
    """
    message = _decoded(_roll_call, payload, MAX_ROLL_CALL)
    if not message.roll_call:
        raise RefusedMessageError("not a roll call")
    return message


def decode_proposal(payload: bytes) -> ProposedChange:
    """Decode a proposal.

    :raises RefusedMessageError: it is not a proposal.
    """
    message = _decoded(_typed, payload, MAX_PROPOSAL)
    if not isinstance(message, ProposedChange):
        raise RefusedMessageError("not a proposal")
    if not message.base_version < message.version <= message.base_version + MAX_STEPS:
        raise RefusedMessageError("version does not follow baseVersion")
    parse_time(message.timestamp)
    return message


def _decoded(decoder: msgspec.json.Decoder[_M], payload: bytes, limit: int) -> _M:
    if len(payload) > limit:
        raise RefusedMessageError(f"a message of {len(payload)} bytes is too large")
    try:
        payload.decode()  # msgspec does not check the encoding of fields that it skips
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedMessageError(str(error)[:_MAX_REASON]) from error


def _check_numbers(message: RowMessage) -> None:
    if message.version == 0 and not isinstance(message, CatchupItem):
        raise RefusedMessageError("version is 0: only a row of a snapshot may have none")
    if message.previous_seq < message.seq:
        return
    # The seq of a snapshot's row is the log's head, which is 0 if nothing was captured yet.
    if message.seq or not isinstance(message, CatchupItem):
        raise RefusedMessageError("previousSeq is not below seq")
