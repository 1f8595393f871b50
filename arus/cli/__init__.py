"""`flask sync ...`."""

from . import queue, status
from .common import sync_commands

__all__ = ["queue", "status", "sync_commands"]
