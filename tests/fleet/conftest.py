"""Fleets of real vessels for the tests; what they have logged is shown for a failed test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.fleet import Fleet
from tests.support.postgres import PostgresServer

#: Bytes of each log that a failed test shows.
_SHOWN = 3000


@pytest.fixture
def start_fleet(
    tmp_path: Path, postgres_server: PostgresServer, _migrated: Callable[[str], str]
) -> Iterator[Callable[..., Fleet]]:
    """Starts a fleet with the arguments of Fleet; everything of it ends with the test."""
    template, migrated = Path(_migrated("sqlite")), _migrated("postgresql")
    with ExitStack() as stack:

        def start(**options: Any) -> Fleet:
            name = postgres_server.create_database(migrated)
            stack.callback(postgres_server.drop_database, name)
            fleet = Fleet(tmp_path, postgres_server.url(name), template, **options)
            stack.callback(_show, fleet)
            return stack.enter_context(fleet)

        yield start


def _show(fleet: Fleet) -> None:
    for path in fleet.logs():
        if path.exists():
            print(f"--- {path.name}\n{path.read_text(errors='replace')[-_SHOWN:]}")
