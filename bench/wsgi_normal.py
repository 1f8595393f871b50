"""The vessel app with SQLite's synchronous=NORMAL: requests do not wait for the disk, power cuts may lose commits."""

from __future__ import annotations

import sqlite3

from sqlalchemy import event

from app import create_app
from extensions import db

app = create_app()


def _relax(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA synchronous = NORMAL")


with app.app_context():
    event.listen(db.engine, "connect", _relax)
