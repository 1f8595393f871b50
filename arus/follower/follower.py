"""The follower, as an application uses it."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine

from arus.database import open_engine, translated
from arus.errors import FollowError, LogUnavailableError, ProposalError, StandbyEndedError
from arus.message import Operation
from arus.registry import Registry
from arus.session import Session
from arus.settings import Settings

from .applier import Applier
from .audit import Audits, Ledger, verify_all
from .inbound import Reader
from .loop import RECEIVE_MAXIMUM, Loop, client_id_of
from .position import Patience
from .proposals import Outbox, ProposalStatus, propose, read_proposals, withdraw
from .report import FollowerStatus, read_follower
from .rows import Copy
from .store import Store

if TYPE_CHECKING:
    from flask import Flask

logger = logging.getLogger(__name__)

#: Seconds before the database is tried again.
RETRY_INTERVAL = 2.0
#: What vessels take for a name (arus.followers).
_NAME = re.compile(r"[0-9A-Za-z._-]{1,64}")


class Follower:
    """Keeps an application's tables equal to those of the vessels that publish under its prefix.

    The models are those registered with `ReliableSync`, the database is the application's, the broker that
    of the `MQTT_*` settings. The application must not be a vessel itself (`LOCAL_MODE=false`)::

        follower = Follower(app, "shore")
        follower.run()  # until follower.stop(), from another thread or a signal handler

    Several processes may run the same follower: one works, the others stand by.

    :param name: what the vessels know this follower by; stable for ever, like the session that the
        broker keeps for it.
    :raises FollowError: the application, a model or the name won't do.
    """

    def __init__(
        self, app: Flask, name: str = "shore", *, patience: Patience | None = None
    ) -> None:
        state = app.extensions.get("arus")
        if state is None:
            raise FollowError("bind reliable sync to the application first: sync.init_app(app, db)")
        self._settings: Settings = state.settings
        if self._settings.local_mode:
            raise FollowError("LOCAL_MODE is true: this is a vessel, and a vessel follows nobody")
        self.name = _valid(name)
        self._app = app
        self._lock = state.lock
        self._state = state
        self._patience = patience or Patience()
        self._copies = _copies(state.registry)
        self._stopping = threading.Event()
        self._waker, self._bell = os.pipe()
        for end in (self._waker, self._bell):
            weakref.finalize(self, os.close, end)

    def run(self, *, once: bool = False, timeout: float | None = None) -> bool:
        """Follow until `stop` is called; blocks.

        Whatever happens to broker and link is waited for, and so is the database.

        :param once: return as soon as all that is published is applied.
        :param timeout: seconds after which to return in any case.
        :returns: whether all that is published was applied when it returned (`once`).
        :raises LogUnavailableError: with `once`, the database can't be used.
        """
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

    def stop(self) -> None:
        """Have `run` return, also where it stands by; safe from any thread and from a signal handler."""
        self._stopping.set()
        os.write(self._bell, b"\0")

    def status(self) -> FollowerStatus:
        """Return how far the follower has come, from the database: the same from each process."""
        with self._app.app_context(), self._state.db.engine.connect() as connection:
            return read_follower(connection, self.name, following=self._lock.is_held(connection))

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

        The row shows what is proposed until the vessel answers with a change of it: as proposed, or with
        what the vessel keeps. The process that follows sends the proposal, again and again until then.

        :param operation: `create`, `update` or `delete`.
        :param data: keys as in messages; of an update those that change.
        :param vessel_id: who is to own a new row; needed where several vessels are followed.
        :raises ProposalError: there is no such entity or row, or the data does not fit.
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
        """Return the proposals that were made last, newest first."""
        with self._app.app_context(), self._state.db.engine.connect() as connection:
            return read_proposals(connection, limit)

    def withdraw(self, proposal_id: str) -> bool:
        """Give a proposal up; return whether it still waited. The next audit brings the vessel's row back."""
        engine = self._engine()
        try:
            with translated(), engine.connect() as connection:
                return withdraw(connection, proposal_id)
        finally:
            engine.dispose()

    def _engine(self) -> Engine:
        with self._app.app_context():
            return open_engine(self._state.db.engine.url)

    def verify(self) -> dict[str, dict[str, list[str]]]:
        """Compare the tables with what was received; return the ids of rows that differ, by vessel and entity.

        Finds what somebody has changed, deleted or added here; works beside the process that follows.

        :raises LogUnavailableError: the database can't be used.
        """
        with self._app.app_context():
            url = self._state.db.engine.url
        return verify_all(url, self._copies, self._app.app_context)

    def _follow(self, enough: Callable[[Loop], bool], gives_up: Callable[[float], bool]) -> None:
        if self._lock.is_held():
            logger.info("[MQTT Reliable Sync] another process works on this database; standing by")
        with self._app.app_context(), self._lock.hold(gives_up) as connection:
            if self._stopping.is_set():
                return
            with translated():
                self._loop(connection).run(enough)

    def _loop(self, connection: Connection) -> Loop:
        followed = {copy.followed.topic: copy.followed for copy in self._copies.values()}
        store = Store(connection, followed.values())
        ledger = Ledger(connection)
        applier = Applier(
            connection,
            store,
            self._copies,
            Reader(self._settings.topic_prefix, followed),
            f"follow {self.name}",
            ledger,
        )
        url = self._state.db.engine.url
        session = Session(self._settings, client_id_of(self.name), receive_maximum=RECEIVE_MAXIMUM)
        return Loop(
            applier,
            session,
            Audits(url, connection, ledger, self._copies, self._app.app_context),
            Outbox(connection, self._copies),
            self._settings,
            name=self.name,
            topics=list(followed),
            patience=self._patience,
            stopping=self._stopping.is_set,
            waker=self._waker,
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
    if not _NAME.fullmatch(name):
        raise FollowError(
            f"{name!r} is no name for a follower: 1 to 64 letters, digits, dots, dashes, underscores"
        )
    return name
