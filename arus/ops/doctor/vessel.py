"""The vessel, or the shore, that the doctor examines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct
from sqlalchemy import Connection, Engine

from arus.outbox.tables import Tables
from arus.settings import Settings


class Vessel(Struct, frozen=True):
    """The parts of a vessel that the checks need."""

    settings: Settings
    engine: Engine
    tables: Tables
    #: Whether some process holds the owner's lock.
    is_owned: Callable[[Connection], bool]
    #: The socket of the notifier, on which the owner is woken.
    bell_path: Path
    instance_path: Path
    #: The directory of the application's migrations, if it has one.
    migrations: Path | None
    #: The process's environment, to find misspelt settings.
    environment: Mapping[str, str]
