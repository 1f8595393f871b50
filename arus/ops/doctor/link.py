"""The check of the link: connections that something on the way closes because they carry nothing."""

from __future__ import annotations

from collections.abc import Iterator

from arus.mqtt.diagnosis import Diagnosis
from arus.mqtt.idle_closes import idle_limit
from arus.outbox import sql
from arus.outbox.status import SyncStatus
from arus.protocol.times import iso, now_ms

from .finding import Finding, Verdict
from .vessel import Vessel

#: Milliseconds for which a diagnosis of the owner counts.
_RECENT = 24 * 3600 * 1000
#: A connection that has lasted so many times the limit disproves it.
_LASTED = 5


def check_link(vessel: Vessel, status: SyncStatus) -> Iterator[Finding]:
    """Report the owner's last diagnosis that idle connections are closed, if it still applies."""
    now = now_ms()
    with vessel.engine.connect() as connection:
        events = connection.execute(sql.history.EVENTS, {"after": now - _RECENT}).all()
    for event in reversed(events):
        limit = idle_limit(event.reason or "")
        if limit is None:
            continue
        since = status.connected_changed_at if status.connected else None
        lasted = since is not None and now - since > _LASTED * limit * 1000
        if not lasted and vessel.settings.keepalive >= limit:
            last = Diagnosis.parse(event.reason)
            yield Finding("link", Verdict.WARN, f"{last.says}, last at {iso(event.at)}", last.fix)
        return
