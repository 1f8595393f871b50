"""What the relay of one vessel is given: its topics, and the services that it drives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from arus.audit.auditor import Auditor
from arus.catchup.sender import Catchups
from arus.inbound.handlers import Inbox
from arus.registry import Priorities, Registry

from .training import Trainer


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one vessel, under the prefix."""

    #: All topics on which changes are published.
    published: Sequence[str] = ()
    #: The order in which they are sent while there is a queue.
    priorities: Priorities = field(default_factory=Priorities)


@dataclass(frozen=True, slots=True)
class Services:
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
