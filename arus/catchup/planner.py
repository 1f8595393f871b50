"""Plans catch-ups: decides where the items of a run are read from.

Items are read from the log if it reaches back to the receiver's position, otherwise from the table. A run that was
planned before an interruption is planned again only if the log was pruned meanwhile.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from sqlalchemy import Connection, Engine

from arus.errors import CatchupError
from arus.logs import get_logger
from arus.outbox import sql
from arus.outbox.eviction import UNREPAIRED
from arus.outbox.snapshot import SnapshotReader
from arus.protocol.catchups import Cursor
from arus.protocol.messages import MAX_COVERS
from arus.protocol.times import now_ms
from arus.registry import Registry

from .reader import RunReader
from .requests import DIGEST_OF_ALL
from .runs import Run, number_of
from .tallier import Tallier

if TYPE_CHECKING:
    from arus.outbox.log import ChangeLog

logger = get_logger(__name__)


def plan_repairs(connection: Connection, *, head_seq: int) -> int:
    """Queue a catch-up for each entity of which changes were dropped; return how many.

    To be called in the owner's transaction.
    """
    entities = connection.execute(sql.entries.UNREPAIRED_ENTITIES, {"unrepaired": UNREPAIRED}).all()
    for entity, topic in entities:
        catchup_id = str(uuid.uuid4())
        of = {"entity": entity, "unrepaired": UNREPAIRED}
        dropped = connection.execute(sql.entries.DROPPED, of).all()
        covers = _ranges((row.seq, row.previous_seq or 0) for row in dropped)
        wanted = {"entity": entity, "unrepaired": UNREPAIRED, "claimed": f"repair {catchup_id}"}
        claimed = connection.execute(sql.entries.CLAIM, wanted).rowcount
        connection.execute(sql.entries.COVERED, {"entity": entity, "unrepaired": UNREPAIRED})
        if claimed:
            job: dict[str, Any] = {
                "catchup_id": catchup_id,
                "entity": entity,
                "topic": topic,
                "total": claimed,
            }
            job |= {"high_seq": head_seq, "created_at": now_ms(), "covers": json.dumps(covers)}
            connection.execute(sql.catchups.QUEUE_REPAIR, job)
    return len(entities)


def _ranges(dropped: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges of dropped changes, each as the number before it on its topic and its last number.

    :param dropped: `seq` and `previous_seq` of each.
    """
    ranges: list[tuple[int, int]] = []
    for seq, previous_seq in sorted(dropped):
        if ranges and ranges[-1][1] == previous_seq:
            ranges[-1] = (ranges[-1][0], seq)
        else:
            ranges.append((previous_seq, seq))
    return ranges[:MAX_COVERS]


class Planner:
    """Plans queued catch-ups. Runs in the relay's thread.

    :param engine: reads the tables; from `arus.database.open_engine`.
    :param context: returns the context that the models' schemas may need (an application context).
    """

    def __init__(
        self,
        log: ChangeLog,
        registry: Registry,
        engine: Engine,
        context: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._log = log
        self._registry = registry
        self._engine = engine
        self._context = context
        self._tallier = Tallier(log, registry, engine)
        #: All requests for a digest up to this one have been handled.
        self._digest_id = 0
        #: What the next transaction writes: plans, failures, handled requests for a digest.
        self._writes: list[tuple[Any, dict[str, Any]]] = []
        if log.reach().complete_since < 0:
            since = now_ms() if log.has_unlogged_rows(registry) else 0
            with log.fenced_transaction() as fenced:
                fenced.execute(sql.session.BEGAN, {"since": since})

    def forget(self) -> None:
        """Forget what is not journalled: the connection has ended."""
        self._digest_id = 0
        self._writes.clear()

    @property
    def due(self) -> bool:
        """Whether something waits to be journalled."""
        return bool(self._writes)

    def journal(self, connection: Connection) -> None:
        """Write what was planned, in the owner's transaction."""
        for statement, arguments in self._writes:
            connection.execute(statement, arguments)
        self._writes.clear()

    def take_digest_requests(self) -> bool:
        """Return whether a digest was requested: it does not wait for queued catch-ups, which can take hours."""
        run_ids = self._log.digest_requests(DIGEST_OF_ALL, after=self._digest_id)
        for run_id in run_ids:
            self._digest_id = run_id
            self._writes.append((sql.catchups.DIGEST_TAKEN, {"id": run_id, "now": now_ms()}))
        return bool(run_ids)

    def plan(self, run_id: int) -> tuple[Run, RunReader] | None:
        """Return a run, planned, and the reader of its items; None if it is finished or can't be carried out."""
        row = self._log.catchup_run(run_id)
        if row is None:
            return None
        run = Run(**row)
        return self._plan_or_fail(run)

    def mind(self) -> None:
        """Keep the tallies."""
        self._tallier.mind()

    def take_wrong(self) -> set[int]:
        """Return the ids of the runs that have announced a wrong number of items, each once."""
        return self._tallier.take_wrong()

    def plan_again(self, run: Run) -> tuple[Run, RunReader] | None:
        """Plan a run that has announced a wrong number of items: it begins again; None if it can't be carried out."""
        logger.warning(
            "[MQTT Reliable Sync] catch-up %s of %s begins again: the table has rows that were written without"
            " capture, so that another number of items was announced",
            run.catchup_id,
            run.entity,
        )
        return self._plan_or_fail(replace(run, mode=None, begun=False, recounted=True))

    def stop(self) -> None:
        """End what runs in another thread."""
        self._tallier.stop()

    def fail(self, run: Run, reason: str) -> None:
        """Note that a run can't be carried out; the next transaction writes it."""
        self._writes.append((sql.catchups.FAIL, {"id": run.id, "reason": reason, "now": now_ms()}))
        logger.warning(
            "[MQTT Reliable Sync] catch-up %s of %s for %s failed: %s",
            run.catchup_id,
            run.entity,
            run.consumer or "an unnamed requester",
            reason,
        )

    def _plan_or_fail(self, run: Run) -> tuple[Run, RunReader] | None:
        try:
            return self._plan(run)
        except CatchupError as error:
            self.fail(run, str(error))
            return None

    def _plan(self, run: Run) -> tuple[Run, RunReader]:
        """Decide how a run is sent, unless that was decided before an interruption."""
        registration = self._registry.of_entity(run.entity)
        if registration is None and run.mode != "repair":
            raise CatchupError(f"{run.entity} is not synchronised (any more)")
        if run.mode == "log" and not self._reaches_back(run.after):
            run = replace(run, mode=None)  # pruned meanwhile: entries of the run are missing
        if run.mode is None:
            run = self._decide(run)
        snapshot = None
        if run.mode == "snapshot" and registration is not None:
            snapshot = SnapshotReader(
                self._engine,
                self._context,
                registration,
                high_seq=run.high_seq,
                buckets=run.wanted_buckets,
            )
        reader = RunReader(self._log, snapshot)
        if run.total is None:
            run = replace(run, total=self._count(run, reader))
            plan = {
                name: getattr(run, name)
                for name in ("id", "mode", "since_seq", "position", "high_seq", "total")
            }
            self._writes.append((sql.catchups.PLAN, plan))
        return run, reader

    def _count(self, run: Run, reader: RunReader) -> int:
        registration = self._registry.of_entity(run.entity)

        def rows(snapshot: SnapshotReader, limit: int) -> int:
            assert registration is not None, "only a synchronised table has a snapshot"
            return self._tallier.rows(run, registration, snapshot, limit)

        return reader.count(run, rows)

    def _decide(self, run: Run) -> Run:
        run = replace(
            run,
            high_seq=self._log.head_seq,
            total=None,
            published=0,
            received=0,
            digest="",
            position="",
        )
        epoch, since, position = run.since_epoch, run.since_seq, ""
        if run.cursor is not None:
            mode, epoch, position = Cursor.parse(run.cursor)
            since = number_of(position, 0)
            if mode == "snapshot" and epoch == self._log.epoch:
                return replace(run, mode="snapshot", position=position)
        if epoch is not None and epoch != self._log.epoch:
            return replace(run, mode="must_refetch")
        if run.since_at is not None:
            since = self._seq_before(run)
        since_seq = since or 0
        in_log = since is not None or run.since_at is None
        in_log = in_log and not run.wants_snapshot and self._reaches_back(since_seq)
        return replace(
            run,
            mode="log" if in_log else "snapshot",
            since_seq=since_seq,
            position=f"s{since_seq}" if in_log and run.cursor is not None else "",
        )

    def _reaches_back(self, seq: int) -> bool:
        """Whether the log holds all changes after `seq`."""
        reach = self._log.reach()
        return seq >= reach.pruned_seq and (seq > 0 or reach.complete_since == 0)

    def _seq_before(self, run: Run) -> int | None:
        """Return the number before the first change since the requested time; None if the log begins later."""
        since, reach = run.since_at or 0, self._log.reach()
        if since < reach.complete_since:
            return None
        first = self._log.time_marks.first_since(
            run.topic, since, pruned_seq=reach.pruned_seq, head_seq=run.high_seq
        )
        if first is None:
            first = self._log.first_seq_since(run.topic, since)
        return run.high_seq if first is None else min(first - 1, run.high_seq)
