"""Arus: store-and-forward data sync for Flask applications that live on bad links."""

from __future__ import annotations

from .errors import ArusError
from .extension import ReliableSync
from .follower import Follower
from .message import ChangeState, Operation, Receipt
from .status import SyncStatus

__all__ = [
    "ArusError",
    "ChangeState",
    "Follower",
    "Operation",
    "Receipt",
    "ReliableSync",
    "SyncStatus",
]
