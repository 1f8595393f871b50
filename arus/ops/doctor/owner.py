"""The check of the owner, and the reason of its last failed attempt."""

from __future__ import annotations

from collections.abc import Iterator

from arus.mqtt.diagnosis import Diagnosis
from arus.outbox.status import SyncStatus
from arus.protocol.times import now_ms
from arus.settings import Settings

from .finding import Finding, Verdict


def check_epoch(status: SyncStatus) -> Iterator[Finding]:
    """Report a proof of the last day that this database was restored from an older copy."""
    told = status.told_of_restore(now_ms())
    if told is not None:
        found = Diagnosis.parse(told)
        yield Finding("epoch", Verdict.WARN, found.says, found.fix)


def check_owner(settings: Settings, status: SyncStatus) -> Iterator[Finding]:
    """Check that a process holds the session, and is connected."""
    if not settings.local_mode:
        return
    owner = status.owner
    if owner is None:
        yield Finding(
            "owner",
            Verdict.WARN,
            "no process holds the session: changes are kept and not sent",
            "start the server, or: flask sync relay",
        )
        return
    who = f"process {owner.pid} on {owner.host}, generation {owner.generation}"
    if status.connected and (trouble := status.trouble(now_ms())):
        yield Finding(
            "owner",
            Verdict.WARN,
            f"{who}, is connected, but {trouble}",
            "check the broker's log: it receives messages and does not acknowledge them",
        )
    elif status.refused:
        yield Finding(
            "owner",
            Verdict.WARN,
            f"{who}, is connected, but {status.refused}",
            "allow the vessel to publish on all topics under its prefix; if it is allowed, wait, or see the broker's log",
        )
    elif status.connected:
        yield Finding("owner", Verdict.OK, f"{who}, connected with MQTT {status.protocol}")
    else:
        last = Diagnosis.parse(status.reason or "")
        says = f"{who}, is not connected; failed attempts: {status.reconnect_attempts}"
        if last.says:
            says += f"; the last: {last.says}"
        yield Finding("owner", Verdict.WARN, says, last.fix or "see the findings for the broker")
