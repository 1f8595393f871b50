"""`flask sync ...`."""

from . import catchup, doctor, queue, status
from .common import sync_commands

__all__ = ["catchup", "doctor", "queue", "status", "sync_commands"]
