"""The follower's interface for applications."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine

from arus.database import open_engine, translated
from arus.errors import FollowError, LogUnavailableError, ProposalError, StandbyEndedError
from arus.logs import get_logger
from arus.outbox import sql as outbox_sql
from arus.protocol.entries import Operation
from arus.protocol.topics import FOLLOWER_NAME
from arus.registry import Registry
from arus.settings import Settings

from .assembly import make_loop
from .audits.whole import verify_all
from .hand_over import HandOver, hand_over
from .loop import Loop
from .partitions.agreement import leave
from .partitions.sharing import PartitionSharing, check_partitions
from .partitions.unused import UnusedSessions, read_unused
from .parts import Common
from .proposals import ProposalStatus, propose, read_proposals, withdraw
from .report import FollowerStatus, Scope, read_follower
from .requests import Patience
from .rows import Copy

if TYPE_CHECKING:
    from flask import Flask

logger = get_logger(__name__)

#: Seconds before the database is tried again.
RETRY_INTERVAL = 2.0


class Follower:
    """Keeps an application's tables equal to those of the vessels that publish under `MQTT_TOPIC_PREFIX`.

    It uses the models registered with `ReliableSync`, the application's database, and the broker of the `MQTT_*`
    settings. The application must not be a vessel itself (`LOCAL_MODE=false`)::

        follower = Follower(app, "shore")
        follower.run()  # until follower.stop(), from another thread or a signal handler

    Several processes may run the same follower: one works, the others stand by.

    With `partitions` several processes share the work; the database must be PostgreSQL (docs/fleet.md).

    :param name: identifies this follower to the vessels and the broker, which keeps its session; must never change.
    :param partitions: the number of partitions that the vessels are divided into; None to follow them all in one.
    :raises FollowError: the application, a model, the name or the number of partitions can't be used.
    """

    def __init__(
        self,
        app: Flask,
        name: str = "shore",
        *,
        patience: Patience | None = None,
        partitions: int | None = None,
    ) -> None:
        state = app.extensions.get("arus")
        if state is None:
            raise FollowError("bind reliable sync to the application first: sync.init_app(app, db)")
        self._settings: Settings = state.settings
        if self._settings.local_mode:
            raise FollowError("LOCAL_MODE is true: a vessel can't be a follower")
        self.name = _valid(name)
        self._app = app
        self._lock = state.lock
        self._state = state
        self._patience = patience or Patience()
        self._copies = _copies(state.registry)
        self._scope = Scope(self._settings.topics, self._settings.follow_vessels)
        self._partitions = partitions
        if partitions is not None:
            check_partitions(self._common, partitions)
        self._stopping = threading.Event()
        self._waker, self._notifier = os.pipe()
        for end in (self._waker, self._notifier):
            weakref.finalize(self, os.close, end)

    def run(self, *, once: bool = False, timeout: float | None = None) -> bool:
        """Follow until `stop` is called; blocks.

        Failures of the broker, the link and the database are retried.

        :param once: return as soon as everything published is applied.
        :param timeout: seconds after which to return in any case.
        :returns: with `once`, whether everything published was applied.
        :raises FollowError: with partitions, `once` was given, or other processes have another number of partitions.
        :raises LogUnavailableError: with `once`, the database can't be used.
        """
        if self._partitions is not None:
            return self._run_partitions(self._partitions, once=once)
        deadline = time.monotonic() + timeout if timeout is not None else None
        level = False

        def is_late() -> bool:
            return deadline is not None and time.monotonic() >= deadline

        def enough(loop: Loop) -> bool:
            nonlocal level
            level = once and loop.caught_up
            return level or is_late()

        def gives_up(seconds: float) -> bool:
            return self._stopping.wait(seconds) or is_late()

        said: str | None = None
        while not self._stopping.is_set():
            try:
                self._follow(enough, gives_up)
                return level
            except StandbyEndedError:
                return False
            except LogUnavailableError as error:
                if once:
                    raise
                if str(error) != said:
                    logger.warning("[MQTT Reliable Sync] %s; trying again", error)
                said = str(error)
                self._stopping.wait(RETRY_INTERVAL)
        return level

    def _run_partitions(self, partitions: int, *, once: bool) -> bool:
        if once:
            raise FollowError("a follower in partitions follows until it is stopped")
        self._refuse_a_vessel()
        PartitionSharing(self._common, partitions, self._stopping).run()
        return False

    def stop(self) -> None:
        """Make `run` return, even while it stands by; safe from any thread and from a signal handler."""
        self._stopping.set()
        os.write(self._notifier, b"\0")

    def status(self) -> FollowerStatus:
        """Return the follower's status, read from the database: the same in every process."""
        with self._app.app_context(), self._state.db.engine.connect() as connection:
            following = self._lock.is_held(connection)
            return read_follower(connection, self.name, self._scope, following=following)

    def propose(
        self,
        operation: str,
        entity: str,
        row_id: str,
        data: Mapping[str, Any] | None = None,
        *,
        vessel_id: str | None = None,
    ) -> str:
        """Write a row here, and propose it to the vessel that owns it; return the proposal's id.

        The row shows the proposed state until the vessel answers with a change of it: the proposed row, or the row
        that the vessel keeps. Until then the process that follows sends the proposal repeatedly.

        :param operation: `create`, `update` or `delete`.
        :param data: keys as in messages; for an update only the changed ones.
        :param vessel_id: the owner of a new row; required if several vessels are followed.
        :raises ProposalError: there is no such entity or row, or the data is not valid.
        :raises LogUnavailableError: the database can't be used; nothing was written.
        """
        copy = self._copies.get(entity)
        if copy is None:
            raise ProposalError(f"there is no entity {entity!r}")
        engine = self._engine()
        try:
            with translated(), engine.connect() as connection:
                return propose(
                    connection,
                    copy,
                    Operation(operation),
                    row_id,
                    data or {},
                    origin=self.name,
                    vessel_id=vessel_id,
                )
        finally:
            engine.dispose()

    def proposals(self, limit: int = 100) -> list[ProposalStatus]:
        """Return the latest proposals, newest first."""
        with self._app.app_context(), self._state.db.engine.connect() as connection:
            return read_proposals(connection, limit)

    def withdraw(self, proposal_id: str) -> bool:
        """Withdraw a proposal; return whether it was still pending. The next audit restores the vessel's row."""
        engine = self._engine()
        try:
            with translated(), engine.connect() as connection:
                return withdraw(connection, proposal_id)
        finally:
            engine.dispose()

    def _engine(self) -> Engine:
        with self._app.app_context():
            return open_engine(self._state.db.engine.url)

    def hand_over(self, giver: str, receiver: str, entity: str | None = None) -> HandOver:
        """Hand the rows of one vessel over to another one; see `arus.follower.hand_over`.

        :raises FollowError: a vessel or the entity is not known, or a process follows.
        :raises LogUnavailableError: the database can't be used; nothing was changed.
        """
        self._refuse_a_vessel()
        try:
            with self._app.app_context(), self._lock.hold(lambda _: True) as connection:
                return hand_over(connection, giver, receiver, entity, self._copies)
        except StandbyEndedError as error:
            raise FollowError(
                "a follower is running on this database: stop it, hand over, and start it again"
            ) from error

    def verify(self) -> dict[str, dict[str, list[str]]]:
        """Compare the tables with the received rows; return the ids of rows that differ, by vessel and entity.

        Finds rows that somebody has changed, deleted or added here. May run while another process follows.

        :raises LogUnavailableError: the database can't be used.
        """
        with self._app.app_context():
            url = self._state.db.engine.url
        return verify_all(url, self._copies, self._app.app_context)

    def _follow(self, enough: Callable[[Loop], bool], gives_up: Callable[[float], bool]) -> None:
        self._refuse_a_vessel()
        if self._lock.is_held():
            logger.info("[MQTT Reliable Sync] another process works on this database; standing by")
        with self._app.app_context(), self._lock.hold(gives_up) as connection:
            if self._stopping.is_set():
                return
            logger.info("[MQTT Reliable Sync] %s follows %s", self.name, self._scope)
            with translated():
                self._leave_partitions(connection)
                make_loop(
                    self._common,
                    connection,
                    stopping=self._stopping.is_set,
                    waker=self._waker,
                ).run(enough)

    def _leave_partitions(self, connection: Connection) -> None:
        leave(connection)
        if read_unused(connection):
            url = self._state.db.engine.url
            UnusedSessions(url, self._settings, self._stopping.wait).start()

    @property
    def _common(self) -> Common:
        with self._app.app_context():
            url = self._state.db.engine.url
        return Common(
            name=self.name,
            settings=self._settings,
            url=url,
            copies=self._copies,
            context=self._app.app_context,
            patience=self._patience,
        )

    def _refuse_a_vessel(self) -> None:
        """Refuse a database that a vessel publishes: a follower would stand by for that vessel's lock.

        :raises FollowError: it has a vessel's change log.
        """
        with self._app.app_context(), self._state.db.engine.connect() as connection, translated():
            session = connection.execute(outbox_sql.session.HEAD).one_or_none()
        if session is not None:
            raise FollowError(
                f"this is the database of vessel {session.vessel_id}: give the follower a database of its own"
            )


def _copies(registry: Registry) -> dict[str, Copy]:
    copies = {registration.entity: Copy(registration) for registration in registry}
    if not copies:
        raise FollowError("no model is registered: there is nothing to follow")
    topics = [copy.followed.topic for copy in copies.values()]
    twice = {topic for topic in topics if topics.count(topic) > 1}
    if twice:
        raise FollowError(f"two entities share a topic and can't be followed: {', '.join(twice)}")
    return copies


def _valid(name: str) -> str:
    if not FOLLOWER_NAME.fullmatch(name):
        raise FollowError(
            f"{name!r} can't name a follower: use 1 to 64 letters, digits, dots, dashes, underscores"
        )
    return name
