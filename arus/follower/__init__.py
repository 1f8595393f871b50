"""A copy of vessels' tables, kept up to date by their topics and by catch-ups that it requests itself.

Applications use `Follower`; `flask sync follow` runs one. The receiver's algorithm is in `position`, without any
I/O; docs/protocol.md describes it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .follower import Follower
    from .report import FollowedTopic, FollowedVessel, FollowerStatus
    from .requests import Patience

__all__ = ["FollowedTopic", "FollowedVessel", "Follower", "FollowerStatus", "Patience"]

# A vessel's server, which imports the definition of this package's tables, never needs these.
_MODULES = {
    "FollowedTopic": "report",
    "FollowedVessel": "report",
    "Follower": "follower",
    "FollowerStatus": "report",
    "Patience": "requests",
}


def __getattr__(name: str) -> Any:
    if module := _MODULES.get(name):
        return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
