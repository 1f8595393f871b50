"""What a follower's loop is made of: what all loops of a follower share, and the parts that are of one loop."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from sqlalchemy import URL

from arus.audit.contents import Context
from arus.settings import Settings

from .applier import Applier
from .audits.audits import Audits
from .dictionaries import VesselDictionaries
from .messages import Followed
from .proposals import Outbox
from .requests import Patience
from .rows import Copy


class Common(Struct, frozen=True):
    """What does not depend on the loop: of the application and its settings."""

    #: The follower's name.
    name: str
    settings: Settings
    #: The application's database.
    url: URL
    #: The tables, by entity.
    copies: Mapping[str, Copy]
    #: Returns the context in which the models' schemas run (`app.app_context`).
    context: Context
    patience: Patience

    @property
    def followed(self) -> dict[str, Followed]:
        """The entities that are followed, by topic."""
        return {copy.followed.topic: copy.followed for copy in self.copies.values()}


class Parts(Struct, frozen=True):
    """The parts of one loop, each on the loop's connection to the database."""

    applier: Applier
    audits: Audits
    outbox: Outbox
    dictionaries: VesselDictionaries
