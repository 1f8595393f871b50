"""The shore of the simulated fleet: a database, `flask sync follow` in one process or several, and what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession

from arus.follower import Follower, FollowerStatus
from extensions import db
from tests.fleet.host import cpu_of, memory_of
from tests.fleet.ship_app import SECRET_KEY, make_app
from tests.fleet.vessels import rows_of
from tests.support.follower import FollowerProcess
from tests.support.lifecycle import Started

NAME = "shore"
#: Partitions that several processes share.
PARTITIONS = 16


class Shore(Started):
    """The follower's processes, and the views of its database.

    :param url: that of a migrated database.
    :param processes: more than one of them share partitions.
    """

    def __init__(
        self, directory: Path, url: str, settings: dict[str, str], processes: int = 1
    ) -> None:
        self.log_path = directory / "shore.log"
        self._settings = {"SECRET_KEY": SECRET_KEY, "DATABASE_URL": url, **settings}
        self._app = make_app(url, LOCAL_MODE="false", **settings)
        self._follower = Follower(self._app, NAME)
        self._options = ("--partitions", str(PARTITIONS)) if processes > 1 else ()
        self._wanted = processes
        self._processes: list[FollowerProcess] = []

    def follow(self) -> None:
        """Start the processes."""
        assert not self._processes, "it follows already"
        self._processes = [
            FollowerProcess(self.log_path, self._settings, *self._options, name=NAME)
            for _ in range(self._wanted)
        ]

    def leave(self) -> None:
        """Stop them in good order."""
        processes, self._processes = self._processes, []
        for process in processes:
            assert process.stop() == 0, self.log[-2000:]

    def kill(self) -> None:
        """SIGKILL them."""
        processes, self._processes = self._processes, []
        for process in processes:
            process.kill()

    def close(self) -> None:
        self.kill()
        with self._app.app_context():
            db.engine.dispose()

    @property
    def following(self) -> bool:
        """Whether all processes run."""
        codes = [process.child.returncode() for process in self._processes]
        return bool(codes) and all(code is None for code in codes)

    @property
    def pids(self) -> list[int]:
        """The processes' ids."""
        return [process.child.pid for process in self._processes]

    @property
    def memory(self) -> int:
        """Resident bytes of all processes."""
        return sum(map(memory_of, self.pids))

    @property
    def cpu(self) -> float:
        """Seconds of a processor that the processes have used."""
        return sum(map(cpu_of, self.pids))

    @property
    def log(self) -> str:
        """What it has logged."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def status(self) -> FollowerStatus:
        """The follower's status."""
        return self._follower.status()

    def rows(self) -> dict[str, Any]:
        """All rows as their schemas tell them, by topic and id with a slash between."""
        with self._app.app_context(), OrmSession(db.engine) as session:
            return rows_of(self._app, session)

    def query(self, statement: str, **arguments: Any) -> list[Any]:
        """Rows of its database."""
        with self._app.app_context(), db.engine.connect() as connection:
            return list(connection.execute(text(statement), arguments))
