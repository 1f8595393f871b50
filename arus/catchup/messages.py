"""The messages of a catch-up: begin, items, end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from arus.logs import get_logger
from arus.protocol.encoding import encode, encode_catchup
from arus.protocol.entries import Entry
from arus.protocol.messages import CatchupBegin, CatchupEnd
from arus.protocol.times import iso, now_ms
from arus.registry import Registry, mere_row

from .runs import Run

if TYPE_CHECKING:
    from arus.outbox.log import ChangeLog

logger = get_logger(__name__)


def begin_message(run: Run, log: ChangeLog) -> bytes:
    """Return the message that announces a run."""
    message = CatchupBegin(
        **_head(run, log),
        total=run.total or 0,
        since_seq=run.since_seq if run.mode == "log" else None,
        complete=run.is_complete,
        buckets=tuple(run.wanted_buckets) or None,
        consumer=run.consumer,
        covers=run.covered or UNSET,
    )
    return encode(message)


def end_message(run: Run, log: ChangeLog) -> bytes:
    """Return the message that ends a run."""
    message = CatchupEnd(
        **_head(run, log), total=run.published, digest=run.digest, next=run.next_cursor
    )
    return encode(message)


def _head(run: Run, log: ChangeLog) -> dict[str, Any]:
    return {
        "catchup_id": run.catchup_id,
        "request_id": run.request_id,
        "vessel_id": log.vessel_id,
        "entity": run.entity,
        "epoch": log.epoch,
        # A repair sends the state of some rows: receivers treat it like any catch-up from the log.
        "mode": "log" if run.mode == "repair" else run.mode,
        "high_seq": run.high_seq,
        "timestamp": iso(now_ms()),
    }


def item_message(
    run: Run,
    entry: Entry,
    sequence: int,
    log: ChangeLog,
    registry: Registry,
    maximum_payload: int | None,
    compress: Callable[[bytes], bytes],
) -> bytes:
    """Return an item's message; if it is too large for the broker, one with only id and version of the row.

    :param maximum_payload: bytes of payload that the broker accepts; None if it does not say.
    :param compress: returns the bytes to send for a message.
    """

    def encoded(entry: Entry) -> bytes:
        message = encode_catchup(
            entry,
            epoch=log.epoch,
            vessel_id=log.vessel_id,
            catchup_id=run.catchup_id,
            sequence=sequence,
            total=run.total or 0,
        )
        return compress(message)

    payload = encoded(entry)
    if maximum_payload is None or len(payload) <= maximum_payload:
        return payload
    logger.error(
        "[MQTT Reliable Sync] %s %s is larger than the broker accepts (%d bytes): the catch-up sends it"
        " without its data",
        entry.entity,
        entry.row_id,
        len(payload),
    )
    registration = registry.of_entity(entry.entity)
    return encoded(entry._replace(data=mere_row(registration, entry.row_id, entry.version)))
