"""A run: the catch-up of one entity while it is being sent, and its progress."""

from __future__ import annotations

import json

from msgspec import Struct

from arus.protocol.digests import bucket_of


class Run(Struct):
    """The catch-up of one entity while it is being sent, up to what has been read or acknowledged."""

    id: int
    catchup_id: str
    request_id: str | None
    entity: str
    topic: str
    #: log, snapshot, repair or must_refetch; None until it is planned.
    mode: str | None
    #: The name under which the requester publishes watermarks; None if it gave none.
    consumer: str | None
    #: Items that may be sent beyond those in `received`; None for no limit.
    receive_window: int | None
    since_at: int | None
    #: The receiver has everything up to this number; once planned, a run from the log begins after it.
    since_seq: int | None
    since_epoch: str | None
    cursor: str | None
    item_limit: int | None
    #: JSON list; None for all.
    buckets: str | None
    wants_snapshot: bool
    #: After the last item: `i<id>` of a repair, `s<seq>` of the log or of a snapshot's deletes, `k<key>` of
    #: a snapshot's rows; empty at the beginning.
    position: str
    high_seq: int
    total: int | None
    #: Items so far.
    published: int
    #: Items that its consumer has reported as received.
    received: int
    digest: str
    #: Of a repair: the ranges of changes that it stands for, JSON.
    covers: str | None = None
    #: With whom it shares the queue and the quota; None in rows of older versions. And http, cli, mqtt or repair.
    requester: str | None = None
    origin: str = "mqtt"
    #: It was announced in this connection.
    begun: bool = False
    #: It begins again, because it had announced a wrong number of rows.
    recounted: bool = False
    #: There are no items after the position.
    done: bool = False
    #: The cursor to continue after its limit.
    next_cursor: str | None = None

    @property
    def claimed(self) -> str:
        """The reason that marks the items of a repair in the log."""
        return f"repair {self.catchup_id}"

    @property
    def after(self) -> int:
        """The number after which the log is read: that of the position, or the one at which the run begins."""
        return number_of(self.position, (self.since_seq or 0) if self.mode == "log" else 0)

    @property
    def wanted_buckets(self) -> list[int]:
        """The requested buckets; empty for all."""
        return list(json.loads(self.buckets)) if self.buckets else []

    @property
    def covered(self) -> tuple[tuple[int, int], ...] | None:
        """The ranges of dropped changes that a repair stands for."""
        if self.covers is None:
            return None
        return tuple((start, end) for start, end in json.loads(self.covers))

    @property
    def is_open_ended(self) -> bool:
        """Whether it ends with the last row of its table, not at the announced number of items.

        Rows that were written without capture are not in the log, so the announced number may be too low. Ending
        there would leave out rows, which receivers would then treat as deleted.
        """
        return self.mode == "snapshot" and self.item_limit is None

    @property
    def is_complete(self) -> bool:
        """Whether it sends all rows (in its buckets), so that receivers may delete all others that they have."""
        return self.mode == "snapshot" and self.cursor is None


def in_buckets(buckets: list[int], row_id: str) -> bool:
    """Whether a row is in one of the requested buckets; an empty list means all buckets."""
    return not buckets or bucket_of(row_id) in buckets


def number_of(position: str, otherwise: int) -> int:
    """Return the number in a position; `otherwise` if it has none."""
    return int(position[1:]) if position[:1] in {"s", "i"} else otherwise
