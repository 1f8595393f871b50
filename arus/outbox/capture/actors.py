"""Who makes the changes, as the application says: a user, a token, a command."""

from __future__ import annotations

from collections.abc import Callable

from arus.logs import get_logger

logger = get_logger(__name__)

#: Maximum number of characters of an actor; as long as the log's column.
MAX_ACTOR = 100

#: Returns who makes the current transaction; None if that is not known.
FindActor = Callable[[], str | None]


class Actors:
    """Asks the application for the actor of a transaction."""

    def __init__(self) -> None:
        self._find: FindActor | None = None
        self._has_failed = False

    def declare(self, find: FindActor) -> None:
        """Ask this function from now on, in place of an earlier one."""
        self._find = find

    def current(self) -> str | None:
        """Return the actor of the current transaction; None if nothing is declared or known.

        Never raises: a commit must not fail because its actor is unknown. The first failure is logged.
        """
        if self._find is None:
            return None
        try:
            found = self._find()
            return None if found is None else shown(found)
        except Exception:
            if not self._has_failed:
                self._has_failed = True
                logger.exception(
                    "[MQTT Reliable Sync] the application can't say who makes a change:"
                    " changes are logged without an actor while it can't (said once)"
                )
            return None


def shown(actor: str) -> str | None:
    """Return an actor with its control characters escaped, and not too long; None if it is empty."""
    if not actor.isprintable():
        actor = "".join(
            one if one.isprintable() else one.encode("unicode_escape").decode() for one in actor
        )
    return actor[:MAX_ACTOR] or None
