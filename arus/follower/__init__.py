"""A copy of vessels' tables, kept equal by their topics and by catch-ups that it asks for itself.

`Follower` is what an application uses; `flask sync follow` runs one. The receiver's algorithm is in
`position`, without any I/O; docs/protocol.md tells it in words.
"""

from __future__ import annotations

from .follower import Follower
from .position import Patience
from .report import FollowedTopic, FollowedVessel, FollowerStatus

__all__ = ["FollowedTopic", "FollowedVessel", "Follower", "FollowerStatus", "Patience"]
