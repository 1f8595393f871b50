"""What the sync needs of its machine: certificates that are valid, and room on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from arus.mqtt.certificates import read_first_expiry
from arus.settings import Settings

#: Bytes of a certificate file that are read at most.
_LARGEST = 4 * 1024 * 1024


class Disk(NamedTuple):
    """A disk's room, in bytes."""

    total: int
    free: int


class Surroundings:
    """The certificates and the disk of one application.

    :param settings: name the certificates.
    :param database: the file of a SQLite database; None if the database is on a server.
    """

    def __init__(self, settings: Settings, database: Path | None) -> None:
        self._files = {"client": settings.tls_cert, "ca": settings.tls_ca}
        self._database = database

    def certificates(self) -> Mapping[str, float]:
        """Return when the first certificate of each configured file expires, in seconds since the epoch.

        0 for a file that can't be read: it is no good for the next connection either.
        """
        return {name: _expiry(file) for name, file in self._files.items() if file is not None}

    def disk(self) -> Disk | None:
        """Return the room on the disk of a SQLite database; None if it can't be seen from here."""
        if self._database is None:
            return None
        try:
            usage = shutil.disk_usage(self._database.parent)
        except OSError:
            return None
        return Disk(usage.total, usage.free)


def _expiry(file: Path) -> float:
    try:
        found = file.stat()
        return _expiry_of(file, found.st_mtime_ns, found.st_size)
    except (OSError, ValueError):
        return 0.0


# Each scrape asks, and the file changes once a year.
@lru_cache(maxsize=8)
def _expiry_of(file: Path, _modified: int, _size: int) -> float:
    with file.open("rb") as opened:
        return read_first_expiry(opened.read(_LARGEST)).timestamp()
