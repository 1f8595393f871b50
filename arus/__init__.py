"""Arus: store-and-forward data sync for Flask applications that live on bad links."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import ArusError
from .extension import ReliableSync
from .outbox.status import SyncStatus
from .protocol.entries import ChangeState, Operation, Receipt
from .runtime import Runtime

if TYPE_CHECKING:
    from .follower import Follower

__version__ = "0.2.0"

__all__ = [
    "ArusError",
    "ChangeState",
    "Follower",
    "Operation",
    "Receipt",
    "ReliableSync",
    "Runtime",
    "SyncStatus",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "Follower":
        # A vessel's server never needs it.
        from .follower import Follower

        return Follower
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
