"""`flask db ...`: Flask-Migrate, which loads Alembic, when it is called; a server never needs it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from arus.cli import LoadedLater

from .config import ROOT

if TYPE_CHECKING:
    from flask_migrate import Migrate


class Migrations:
    """What Flask-Migrate looks for in `app.extensions["migrate"]`."""

    def __init__(self, db: SQLAlchemy) -> None:
        self.db = db
        self.directory = str(ROOT / "migrations")
        self.configure_args: dict[str, Any] = {"compare_type": True, "render_as_batch": True}

    @cached_property
    def migrate(self) -> Migrate:
        """The extension itself, for its commands."""
        from flask_migrate import Migrate

        return Migrate(db=self.db, directory=self.directory, **self.configure_args)


def init_migrations(app: Flask, db: SQLAlchemy) -> None:
    """Give `app` the commands `flask db`."""
    app.extensions["migrate"] = Migrations(db)
    app.cli.add_command(LoadedLater("db", "flask_migrate.cli", "db"))
