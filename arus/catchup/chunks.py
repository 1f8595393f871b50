"""Chunks: the parts in which a run is read and sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from arus.protocol.catchups import Cursor, chained, link_of
from arus.protocol.topics import CATCHUP
from arus.registry import Registry

from .messages import begin_message, end_message, item_message
from .reader import RunReader
from .runs import Run

if TYPE_CHECKING:
    from arus.outbox.log import ChangeLog

#: Returns the bytes to send for a message.
Compress = Callable[[bytes], bytes]
#: Items of a run's first chunk, small so that the run begins quickly, and of the later ones.
FIRST_CHUNK = 50
CHUNK = 400


class Chunk(Struct):
    """A part of a run that is being sent."""

    #: Messages that wait for room in the window: topic and payload.
    waiting: deque[tuple[str, bytes]]
    #: The run as it is once the whole chunk is acknowledged.
    after: Run
    items: int
    #: Its run has begun again since: its acknowledgement says nothing of the run.
    is_outdated: bool = False
    #: When each unacknowledged message was sent, by packet id, in monotonic seconds.
    outstanding: dict[int, float] = field(default_factory=dict)

    @property
    def is_acknowledged(self) -> bool:
        """Whether all of it is acknowledged."""
        return not self.waiting and not self.outstanding


class ChunkReader:
    """Reads the chunks of runs."""

    def __init__(self, log: ChangeLog, registry: Registry) -> None:
        self._log = log
        self._registry = registry

    def read(
        self,
        run: Run,
        reader: RunReader,
        *,
        credit: int | None,
        maximum_payload: int | None,
        compress: Compress,
    ) -> Chunk:
        """Read the next chunk of a run.

        :param run: at the position read so far.
        :param credit: how many items of the run may be sent now; None for no limit.
        """
        begins = not run.begun and run.published == 0
        total = run.total or 0
        limit = FIRST_CHUNK if begins else CHUNK
        if credit is not None:
            limit = min(limit, credit)
        if not run.is_open_ended:
            limit = min(limit, total - run.published)
        entries, position = reader.read(run, limit)
        if not run.is_open_ended:
            # Rows that were deleted meanwhile are returned in addition to the limit.
            entries = entries[: total - run.published]
        payloads = [compress(begin_message(run, self._log))] if begins else []
        digest = run.digest
        for sequence, entry in enumerate(entries, run.published):
            payloads.append(
                item_message(
                    run, entry, sequence, self._log, self._registry, maximum_payload, compress
                )
            )
            link = link_of(entry.entity, entry.row_id, entry.version, entry.operation)
            digest = chained(digest, link)
        published = run.published + len(entries)
        done = position is None or (published >= total and not run.is_open_ended)
        after = replace(
            run,
            begun=True,
            position=position or run.position,
            published=published,
            digest=digest,
            done=done,
        )
        if done:
            after = replace(after, next_cursor=self._next_cursor(after, reader, position))
            payloads.append(compress(end_message(after, self._log)))
        topic = f"{CATCHUP}/{run.topic}"
        return Chunk(deque((topic, payload) for payload in payloads), after, len(entries))

    def _next_cursor(self, run: Run, reader: RunReader, position: str | None) -> str | None:
        """Return the cursor to continue a run that its limit has stopped, if there are more items."""
        stopped = run.item_limit is not None and run.published >= run.item_limit
        if not stopped or position is None or not reader.read(run, 1)[0]:
            return None
        return str(Cursor(run.mode or "", self._log.epoch, position))
