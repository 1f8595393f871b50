"""`flask sync ...`."""

from . import catchup, queue, status
from .common import sync_commands

__all__ = ["catchup", "queue", "status", "sync_commands"]
