"""The topic queues: the relay's progress on each topic."""

from __future__ import annotations

from .build import TABLES, columns, statement, upsert

ALL = statement(f"SELECT {columns(TABLES.topic_queue)} FROM arus_lane")
SAVE = statement(upsert(TABLES.topic_queue))
DEPTHS = statement("SELECT topic, depth, sent_seq, acked_seq FROM arus_lane WHERE depth > 0")
HEADS = statement("SELECT topic, head_seq FROM arus_lane")
