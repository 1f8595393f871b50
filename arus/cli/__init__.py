"""`flask sync ...`."""

from arus.follower.cli import follow_command

from . import audit, catchup, doctor, inbox, queue, status
from .common import sync_commands

__all__ = ["audit", "catchup", "doctor", "inbox", "queue", "status", "sync_commands"]

sync_commands.add_command(follow_command)
