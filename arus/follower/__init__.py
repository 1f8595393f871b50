"""A copy of vessels' tables, kept up to date by their topics and by catch-ups that it requests itself.

Applications use `Follower`; `flask sync follow` runs one. The receiver's algorithm is in `position`, without any
I/O; docs/protocol.md describes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .report import FollowedTopic, FollowedVessel, FollowerStatus
from .requests import Patience

if TYPE_CHECKING:
    from .follower import Follower

__all__ = ["FollowedTopic", "FollowedVessel", "Follower", "FollowerStatus", "Patience"]


def __getattr__(name: str) -> Any:
    if name == "Follower":
        # A vessel's server, which imports other modules of this package, never needs it.
        from .follower import Follower

        return Follower
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
