"""All commands of `flask sync`."""

from . import (
    audit,
    backup,
    catchup,
    doctor,
    drill,
    fleet,
    follow,
    hand_over,
    inbox,
    new_epoch,
    queue,
    reconcile,
    relay,
    report,
    status,
)
from .common import sync_commands

__all__ = [
    "audit",
    "backup",
    "catchup",
    "doctor",
    "drill",
    "fleet",
    "follow",
    "hand_over",
    "inbox",
    "new_epoch",
    "queue",
    "reconcile",
    "relay",
    "report",
    "status",
    "sync_commands",
]
