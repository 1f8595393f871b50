"""Random steps in a session: what the property tests of capture have in common."""

from __future__ import annotations

import random
from typing import Any

from flask_sqlalchemy import SQLAlchemy


class RandomSteps:
    """Does steps by their names, and remembers nothing but the random numbers and the open savepoints.

    A step "bulk update" is the method `bulk_update` of a subclass.
    """

    def __init__(self, db: SQLAlchemy, seed: int) -> None:
        self.random = random.Random(seed)  # no secret
        self.count = 0
        self.savepoints: list[Any] = []
        self._session = db.session

    def name(self) -> str:
        """A name that no row has had before."""
        self.count += 1
        return f"name {self.count}"

    def do(self, step: str) -> None:
        """Do a step."""
        getattr(self, step.replace(" ", "_"))()

    def flush(self) -> None:
        """A step."""
        self._session.flush()

    def savepoint(self) -> None:
        """A step."""
        self.savepoints.append(self._session.begin_nested())

    def release(self) -> None:
        """A step: release the last savepoint."""
        if self.savepoints:
            self.savepoints.pop().commit()

    def roll_back_savepoint(self) -> None:
        """A step."""
        if self.savepoints:
            self.savepoints.pop().rollback()

    def commit(self) -> None:
        """A step; savepoints end with the transaction."""
        self.savepoints.clear()
        self._session.commit()

    def roll_back(self) -> None:
        """A step."""
        self.savepoints.clear()
        self._session.rollback()
