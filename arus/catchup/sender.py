"""Sends catch-ups: what a receiver has missed, in parallel with the live changes.

A catch-up has a row of `arus_catchup` for each entity: a run. Runs are planned (`arus.catchup.planner`) and sent one
after the other, in the order of `arus.catchup.run_queue`. A run that has used up its credit (`arus.catchup.credit`) is
put aside until its receiver reports, and others are sent meanwhile. Items are read and sent a chunk at a time as the
window has room; after a crash, sending continues after the last acknowledged chunk. Messages have QoS 1 and are not
retained; a receiver applies an item only if its version is newer, so a repeated item does no harm.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, Engine

from arus.errors import CatchupError
from arus.logs import get_logger
from arus.mqtt.refusals import PASSING, REFUSED
from arus.outbox import sql
from arus.protocol.messages import Progress
from arus.protocol.times import now_ms
from arus.registry import Registry

from .chunks import CHUNK, Chunk, ChunkReader, Compress
from .credit import Credits, RunKey, window_of
from .planner import Planner
from .quota import Quotas
from .reader import RunReader
from .requests import DIGEST_OF_ALL
from .run_queue import RunQueue, requester_of_run
from .runs import Run

if TYPE_CHECKING:
    from arus.outbox.log import ChangeLog

logger = get_logger(__name__)

#: Seconds before a catch-up is sent again that the broker has refused for the moment.
PAUSE = 5.0
#: Items and chunks in flight at a time, to keep a link with a long round trip busy.
MAX_ITEMS = 4 * CHUNK
MAX_CHUNKS = 16
#: Runs that are sent or put aside at a time.
MAX_ACTIVE = 32
#: Seconds after which a run fails whose receiver reports nothing; and if it has requested the entity again, or others
#: wait for its place.
SILENCE = 300.0
SHORT_SILENCE = 30.0


class ActiveRun(Struct):
    """A run that is being sent or is put aside."""

    #: At the position read so far.
    run: Run
    reader: RunReader
    #: When its receiver has last reported more items, or the broker has acknowledged some; in monotonic seconds.
    heard_at: float


class Catchups:
    """Sends queued catch-ups. Runs in the relay's thread.

    :param engine: reads the tables; from `arus.database.open_engine`.
    :param context: returns the context that the models' schemas may need (an application context).
    """

    def __init__(
        self,
        log: ChangeLog,
        registry: Registry,
        engine: Engine,
        context: Callable[[], AbstractContextManager[Any]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._registry = registry
        self._planner = Planner(log, registry, engine, context)
        self._reader = ChunkReader(log, registry)
        self._clock = clock
        self._queue = RunQueue()
        self._credits = Credits()
        self._quotas = Quotas(clock=clock)
        self._quotas.resume(log.earlier_runs(), now_ms())
        #: By id; the one that was read longest ago comes first.
        self._active: dict[int, ActiveRun] = {}
        #: Oldest first.
        self._chunks: deque[Chunk] = deque()
        #: The broker has refused catch-ups in this connection.
        self._refused = False
        #: The broker has refused one for the moment: nothing is sent before this time, in monotonic seconds.
        self._paused_until = 0.0
        #: There may be a run to begin.
        self._requested = True

    def requested(self) -> None:
        """Note that a catch-up may have been queued."""
        self._requested = True

    def stop(self) -> None:
        """End what runs in another thread."""
        self._planner.stop()

    def forget(self) -> None:
        """Forget what is not journalled: the connection has ended."""
        self._planner.forget()
        self._queue.clear()
        self._credits.clear()
        self._active.clear()
        self._chunks.clear()
        self._refused = False
        self._requested = True

    def reported(self, consumer: str, progress: Progress) -> None:
        """Note a consumer's report: a run that was put aside may continue."""
        key = RunKey(progress.catchup_id, progress.entity)
        self._credits.reported(consumer, key, progress.received)
        for active in self._active.values():
            run = active.run
            if (run.consumer, run.catchup_id, run.entity) == (consumer, *key):
                if progress.received > run.received:
                    run.received = progress.received
                    active.heard_at = self._clock()
                return

    @property
    def waiting(self) -> bool:
        """Whether messages wait for room in the window."""
        return bool(self._chunks) and bool(self._chunks[-1].waiting)

    @property
    def next_size(self) -> int | None:
        """The bytes of payload of the next message to send; None if none waits."""
        return len(self._chunks[-1].waiting[0][1]) if self.waiting else None

    @property
    def has_next(self) -> bool:
        """Whether something can be sent or read."""
        return self.waiting or self.ready

    def resumed(self) -> None:
        """Note that sending goes on after a pause, in which no receiver could report anything."""
        now = self._clock()
        for active in self._active.values():
            active.heard_at = now

    @property
    def ready(self) -> bool:
        """Whether another chunk can be read."""
        paused = time.monotonic() < self._paused_until
        if self._refused or paused or self.waiting or len(self._chunks) >= MAX_CHUNKS:
            return False
        if self._chunks and sum(chunk.items for chunk in self._chunks) + CHUNK > MAX_ITEMS:
            return False
        return self._requested or self._next_active() is not None

    @property
    def due(self) -> bool:
        """Whether something waits to be journalled."""
        return self._planner.due or (bool(self._chunks) and self._chunks[0].is_acknowledged)

    # -- reading ----------------------------------------------------------------------------------

    def prepare(self, maximum_payload: int | None, compress: Compress = bytes) -> bool:
        """Read the next chunk; its plan is to be journalled, its messages sent as the window has room.

        Runs outside the owner's transactions, so that the writers on board do not wait for it.

        :param maximum_payload: bytes of payload that the broker accepts; None if it does not say.
        :param compress: returns the bytes to send for a message.
        :returns: whether a digest of the tables was requested.
        """
        requested = self._requested
        if requested:
            self._queue.refresh(self._log.unfinished_runs(digest=DIGEST_OF_ALL))
            self._end_silent_runs()
        self._begin_again()
        active = self._next_active() or self._begin_next()
        if active is not None:
            self._read_chunk(active, maximum_payload, compress)
        else:
            self._requested = False
        # So that the first item of a run does not wait for it.
        self._planner.mind()
        # After the queue was read, which leaves these requests out.
        return requested and self._planner.take_digest_requests()

    def _next_active(self) -> ActiveRun | None:
        """Return the run to continue; None if there is none, or all have used up their credit.

        Only then another run begins, so that runs without a window are sent one after the other.
        """
        for active in self._active.values():
            if self._credits.of(active.run) != 0:
                return active
        return None

    def _begin_next(self) -> ActiveRun | None:
        """Plan the next run and return it; None if none may begin."""
        while len(self._active) < MAX_ACTIVE:
            busy = {active.run.consumer or "" for active in self._active.values()}
            exhausted = self._quotas.exhausted(self._queue.requesters())
            run_id = self._queue.take(busy, exhausted)
            if run_id is None:
                return None
            planned = self._planner.plan(run_id)
            if planned is not None:
                active = ActiveRun(*planned, self._clock())
                self._quotas.planned(active.run.entity, active.run.total or 0)
                self._active[run_id] = active
                # A run that is continued after an interruption may have no credit yet.
                if self._credits.of(active.run) != 0:
                    return active
        return None

    def _begin_again(self) -> None:
        """Have those runs begin again that have announced a wrong number of items."""
        for run_id in self._planner.take_wrong() & self._active.keys():
            active = self._active[run_id]
            for chunk in self._chunks:
                chunk.is_outdated = chunk.is_outdated or chunk.after.id == run_id
            planned = self._planner.plan_again(active.run)
            if planned is not None:
                self._active[run_id] = ActiveRun(*planned, self._clock())
            else:
                self._drop(run_id)

    def _end_silent_runs(self) -> None:
        """Let runs fail whose receivers have not reported for long: they request the rest again."""
        now = self._clock()
        is_full = len(self._active) >= MAX_ACTIVE and bool(self._queue)
        for active in list(self._active.values()):
            run, silence = active.run, now - active.heard_at
            if silence < SHORT_SILENCE or self._credits.of(run) != 0:
                continue
            if silence >= SILENCE or is_full:
                reason = f"its receiver has reported nothing for {silence:.0f} s"
            elif self._queue.is_requested_again(run.id, run.consumer, run.entity):
                reason = "its receiver has requested it again"
            else:
                continue
            self._fail(run, reason)

    def _fail(self, run: Run, reason: str) -> None:
        """End a run that can't be sent to its end."""
        self._planner.fail(run, reason)
        self._drop(run.id)

    def _drop(self, run_id: int) -> None:
        """Forget a run that has failed: another one may begin."""
        del self._active[run_id]
        self._requested = True

    def _read_chunk(
        self, active: ActiveRun, maximum_payload: int | None, compress: Compress
    ) -> None:
        try:
            chunk = self._reader.read(
                active.run,
                active.reader,
                credit=self._credits.of(active.run),
                maximum_payload=maximum_payload,
                compress=compress,
            )
        except CatchupError as error:
            self._fail(active.run, str(error))
            return
        self._advance(active, chunk.after)
        self._quotas.sent(requester_of_run(active.run), len(chunk.waiting))
        self._chunks.append(chunk)

    def _advance(self, active: ActiveRun, after: Run) -> None:
        """Note that a chunk of a run was read."""
        del self._active[after.id]
        if after.done:
            self._credits.finished(after)
        else:
            # Others that may continue come first now.
            self._active[after.id] = replace(active, run=after)
        self._requested = self._requested or after.done or window_of(after) is not None

    # -- sending ----------------------------------------------------------------------------------

    def next_message(self) -> tuple[str, bytes] | None:
        """Return topic and payload of the next message to send; None if there is none.

        The caller passes its packet id to `sent`.
        """
        return self._chunks[-1].waiting.popleft() if self.waiting else None

    def sent(self, packet_id: int, now: float) -> None:
        """Note the packet id of the message that `next_message` returned last.

        :param now: monotonic seconds.
        """
        self._chunks[-1].outstanding[packet_id] = now

    def acknowledged(self, packet_id: int, reason: int) -> float | None:
        """Process an acknowledgement of any message.

        A refusal ends the run for this connection; it is sent again in the next one. One that passes pauses it.

        :returns: when the message was sent, in monotonic seconds; None if it does not belong to a catch-up.
        """
        chunk = next((chunk for chunk in self._chunks if packet_id in chunk.outstanding), None)
        if chunk is None:
            return None
        sent_at = chunk.outstanding.pop(packet_id)
        if reason in PASSING:
            self.forget()
            self._paused_until = time.monotonic() + PAUSE
        elif reason >= REFUSED:
            logger.error(
                "[MQTT Reliable Sync] the broker refuses the catch-up topic (reason code 0x%02x);"
                " trying again with the next connection",
                reason,
            )
            self.forget()
            self._refused = True
        return sent_at

    # -- journal ----------------------------------------------------------------------------------

    def journal(self, connection: Connection) -> list[Run]:
        """Write the plans and the progress of the runs; return the runs that are complete."""
        self._planner.journal(connection)
        finished = []
        while self._chunks and self._chunks[0].is_acknowledged:
            chunk = self._chunks.popleft()
            if chunk.is_outdated:
                continue
            run = chunk.after
            if run.id in self._active:
                self._active[run.id].heard_at = self._clock()
            connection.execute(
                sql.catchups.PROGRESS,
                {
                    "id": run.id,
                    "status": "complete" if run.done else "running",
                    "position": run.position,
                    "published": run.published,
                    "digest": run.digest,
                    "next_cursor": run.next_cursor,
                    "finished_at": now_ms() if run.done else None,
                },
            )
            if run.done:
                connection.execute(sql.entries.REPAIRED, {"claimed": run.claimed})
                finished.append(run)
        return finished
