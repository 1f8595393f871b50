"""Whether dropped changes wait for their repair: the vessel's status announces it, and followers wait for it."""

from __future__ import annotations

from arus.outbox.log import ChangeLog

from .reports import Report


class Repairs:
    """Notes when the first changes are dropped and when the last repair is complete. Runs in the relay's thread."""

    def __init__(self, log: ChangeLog) -> None:
        self._log = log
        #: Dropped changes wait for their repair.
        self.pending = False
        self._changed = False

    def note(self, report: Report) -> None:
        """Note what a transaction has journalled."""
        if report.dropped:
            self._changed = self._changed or not self.pending
            self.pending = True
        elif any(run.mode == "repair" for run in report.catchups) and not self._log.repairs():
            self.pending, self._changed = False, True

    def take_changed(self) -> bool:
        """Return whether repairs have begun or ended since the last call."""
        changed, self._changed = self._changed, False
        return changed
