"""New epochs for proofs that this database was restored: at most one a day, because a proof may be forged.

A proof is a number of this vessel and epoch above the log's head: in a message that the broker has retained, or in a
follower's watermark (`arus.relay.restored`). Whoever may publish on the vessel's topics can forge one, and a new epoch
makes each follower fetch all rows again. So a person is told of each proof, believed or not: in the log, and for a day
by health, `flask sync status`, `doctor` and the sync page.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from arus.errors import FIX, EpochError, StandbyEndedError
from arus.logs import get_logger
from arus.outbox import sql
from arus.outbox.log import ChangeLog
from arus.outbox.status import EPOCH_NOTED_FOR
from arus.protocol.times import now_ms

if TYPE_CHECKING:
    from .leadership import LeadershipLock

logger = get_logger(__name__)

#: Milliseconds between two new epochs that begin because of a proof. A note is shown as long.
PERIOD = EPOCH_NOTED_FOR

#: Seconds for which a person's command waits for the owner's lock.
_PATIENCE = 0.5
_FORGED = "check who may publish on this vessel's topics (docs/security.md)"


class NewEpochs:
    """Begins new epochs, and tells why. Runs in the relay's thread."""

    def __init__(self, log: ChangeLog) -> None:
        self._log = log
        #: The last proof that was not believed: each is logged once.
        self._logged: str | None = None

    def may_begin(self) -> bool:
        """Return whether a proof may begin an epoch now: none has for a day."""
        with self._log.fenced_transaction() as fenced:
            last = fenced.connection.execute(sql.session.CLAIMED_AT).scalar()
        # A clock that was set back must not make it wait for longer.
        return last is None or not 0 <= now_ms() - last < PERIOD

    def begin(self, proof: str) -> None:
        """Begin a new epoch, for which the session has to begin anew.

        :param proof: what shows that the database was restored.
        """
        note = (
            f"{proof}: the database was restored from an older copy, so a new epoch has begun and followers fetch all"
            f" rows again{FIX}nothing, if it was restored; if not, the number is forged: {_FORGED}"
        )
        self._log.begin_epoch(proved=note)
        logger.error(
            "[MQTT Reliable Sync] %s: the database was restored from an older copy, or the number is forged. A new"
            " epoch begins; followers must refetch all rows",
            proof,
            extra={"epoch": self._log.epoch},
        )

    def disbelieve(self, proof: str) -> None:
        """Begin none, and tell why.

        :param proof: as for `begin`.
        """
        says = f"{proof}; a new epoch was begun for this reason less than a day ago, so this is not believed"
        fix = f"flask sync new-epoch, if the database was restored again; if not, the number is forged: {_FORGED}"
        with self._log.fenced_transaction() as fenced:
            fenced.execute(sql.session.EPOCH_NOTED, {"note": says + FIX + fix, "now": now_ms()})
        if proof != self._logged:
            self._logged = proof
            logger.error("[MQTT Reliable Sync] %s; %s", says, fix)


def begin_by_hand(lock: LeadershipLock, vessel_id: str | None) -> str:
    """Begin a new epoch, because a person says that the database was restored; return it.

    :param vessel_id: `VESSEL_ID`; None if it is not set.
    :raises EpochError: a process owns the log, and may be sending under the old numbers at this moment.
    :raises LogUnavailableError: the database can't be used.
    """
    deadline = time.monotonic() + _PATIENCE

    def gives_up(pause: float) -> bool:
        return threading.Event().wait(pause) or time.monotonic() >= deadline

    try:
        with lock.hold(gives_up) as connection:
            log = ChangeLog(connection, vessel_id=vessel_id)
            log.begin_epoch()
            log.stand_down()
            return log.epoch
    except StandbyEndedError:
        raise EpochError("a process owns the change log: stop the server first") from None
