"""How long after its commit aboard a change is committed ashore, by PostgreSQL's commit timestamps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from tests.fleet.fleet import Fleet
from tests.support.postgres import PostgresServer


def keep_commit_times(server: PostgresServer) -> str:
    """The URL of a new database of a server that notes when each transaction is committed."""
    address = server.url().replace("+psycopg", "")
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET track_commit_timestamp = on")
    server.stop()
    server.start()
    return server.url(server.create_database())


def lags_of(fleet: Fleet, commits: Sequence[Any]) -> list[float]:
    """Seconds for each commit that created a piece of equipment, in order of size."""
    statement = "SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin)) AS at FROM equipment"
    ashore = {row.id: float(row.at) for row in fleet.shore.query(statement) if row.at is not None}
    return sorted(ashore[row_id] - at for _, row_id, at in commits if row_id in ashore)


def percentile(values: Sequence[float], percent: int) -> float:
    """Of values in order of size."""
    return values[min(len(values) - 1, len(values) * percent // 100)]
