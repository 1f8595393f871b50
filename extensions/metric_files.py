"""The files in which each worker counts its requests for `/metrics`; a full disk must not end a worker."""

from __future__ import annotations

import logging
import mmap
import os
from contextlib import suppress
from pathlib import Path

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

logger = logging.getLogger(__name__)

#: Bytes that a file has at first; it is doubled when they are used. Files of workers that have ended stay: their counts do.
_SIZE = 8 * 1024
#: The most that an entry takes beside its key.
_ENTRY = 32


class ReservedFile(MmapedDict):
    """A worker's counters, in a file whose space is there before it is written to.

    The library's file has holes. To write into one ends the process (SIGBUS) if the disk is full: each request would end
    a worker, and the relay with it. Where there is no room the worker counts in its memory, and `/metrics` lacks it.
    """

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if read_mode:
            super().__init__(filename, read_mode)
            return
        memory = _reserve(filename)
        if memory is None:
            super().__init__(filename)
            return
        try:
            super().__init__(f"/proc/self/fd/{memory}")
        finally:
            os.close(memory)

    def _init_value(self, key: str) -> None:
        if self._used + len(key.encode()) + _ENTRY > self._capacity:
            self._grow(2 * self._capacity)
        super()._init_value(key)

    def _grow(self, size: int) -> None:
        try:
            os.posix_fallocate(self._f.fileno(), 0, size)
        except OSError as error:
            memory = os.fdopen(_in_memory(self._fname, error), "r+b")
            memory.write(self._m[: self._used])
            memory.truncate(size)  # flushes what was written
            self._f.close()
            self._f = memory
        self._m = mmap.mmap(self._f.fileno(), size)
        self._capacity = size


def _reserve(filename: str) -> int | None:
    """Make a file with its space; if there is none, return a descriptor of a file in memory."""
    path = Path(filename)
    if path.exists():  # of a process that had the same id: its counts go on
        return None
    new = path.with_suffix(".new")  # whoever reads all files must not find one that is empty
    try:
        with new.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _SIZE)
        new.replace(path)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        return _in_memory(filename, error)
    return None


def _in_memory(filename: str, error: OSError) -> int:
    logger.warning(
        "%s can't be written (%s): requests of process %d are missing in /metrics",
        filename,
        error.strerror,
        os.getpid(),
    )
    return os.memfd_create("metrics", os.MFD_CLOEXEC)


def use_reserved_files() -> None:
    """Have prometheus_client use such files, where it counts in several processes."""
    values.MmapedDict = ReservedFile  # type: ignore[misc]  # a class, in place of its own
