"""What the relay of one vessel is given: its topics, and the services that it drives."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field

from arus.audit.auditor import Auditor
from arus.catchup.sender import Catchups
from arus.inbound.handlers import Inbox
from arus.registry import Priorities, Registry

from .training import Trainer


class Topics(Struct, frozen=True):
    """The topics of one vessel, under the prefix."""

    #: All topics on which changes are published.
    published: Sequence[str] = ()
    #: The order in which they are sent while there is a queue.
    priorities: Priorities = field(default_factory=Priorities)


class Services(Struct, frozen=True):
    """The services that the relay drives in addition to the changes."""

    #: The registered models.
    registry: Registry
    #: Sends what receivers have missed.
    catchups: Catchups
    #: Handles inbound messages.
    inbox: Inbox
    #: Makes digests of the tables.
    auditor: Auditor
    #: Makes the dictionaries that messages are compressed with.
    trainer: Trainer
