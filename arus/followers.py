"""Followers: what each consumer has told of itself on `watermarks/<name>`."""

from __future__ import annotations

import logging

import orjson
from sqlalchemy import Connection, text

from .message import now_ms

logger = logging.getLogger(__name__)

_NOTE = text(
    "INSERT INTO arus_follower (name, epoch, seq, received_at) VALUES (:name, :epoch, :seq, :now)"
    " ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq,"
    " received_at = excluded.received_at"
)


def note_watermark(connection: Connection, name: str, payload: bytes, *, vessel_id: str) -> None:
    """Take a follower's watermark, in the owner's transaction; what is malformed is logged and left."""
    try:
        body = orjson.loads(payload)
        if body.get("vesselId", vessel_id) != vessel_id:
            return
        told = {"name": name[:64], "epoch": str(body["epoch"])[:36], "seq": int(body["seq"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("[MQTT Reliable Sync] a watermark of %s is refused: %s", name, error)
        return
    connection.execute(_NOTE, {**told, "now": now_ms()})
