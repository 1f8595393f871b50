"""The check of the broker, by a visit; and whether it treats the owner otherwise."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from msgspec import structs

from arus.errors import ProtocolRefusedError, RefusedError
from arus.mqtt.diagnosis import Diagnosis
from arus.mqtt.reason_codes import UNSUPPORTED_PROTOCOL, version_fix
from arus.outbox.status import SyncStatus
from arus.protocol.encoding import encode
from arus.protocol.messages import Status
from arus.protocol.times import iso, now_ms
from arus.protocol.topics import STATUS
from arus.settings import Protocol, Settings

from .certificates import check_broker_certificate, check_own_certificate
from .finding import Finding, Verdict, one_line
from .port import look
from .qos import lack_of
from .visit import Visit, visit


def check_broker(settings: Settings, status: SyncStatus | None) -> Iterator[Finding]:
    """Visit the broker.

    :param status: of the vessel's sync; None if it can't be read.
    """
    yield from check_own_certificate(settings)
    yield from check_broker_certificate(settings)
    seen = _visit(settings, _will(settings, status))
    if seen.connected is None:
        yield _refused(settings, status, seen)
    else:
        yield _accepted(settings, status, seen)


def _will(settings: Settings, status: SyncStatus | None) -> tuple[str, bytes] | None:
    """Return the vessel's will, if the vessel is offline: a broker may refuse a client for its will.

    Should this process be killed, the broker publishes it, and it is true.
    """
    if status is None or not status.enabled or status.connected or status.vessel_id is None:
        return None
    message = Status(status="offline", vessel_id=status.vessel_id, timestamp=iso(now_ms()))
    return f"{settings.topics.prefix_of(status.vessel_id)}/{STATUS}", encode(message)


def _visit(settings: Settings, will: tuple[str, bytes] | None) -> Visit:
    seen = visit(settings, will)
    if settings.protocol != "auto" or seen.connected is not None:
        return seen
    if isinstance(seen.error, ProtocolRefusedError):
        return visit(settings, will, older=True)
    if not seen.is_unanswered:
        return seen
    older = visit(settings, will, older=True)
    return seen if older.connected is None else older


# -- it does not accept the connection ------------------------------------------------------------


def _refused(settings: Settings, status: SyncStatus | None, seen: Visit) -> Finding:
    found = _other_version(settings, seen)
    if found is None and _may_be_another_service(seen):
        found = look(settings, seen)
    found = found or seen.diagnosis
    fix = (found.fix or "the broker's log says why").replace(
        seen.client_id, _client_id(settings, status)
    )
    says = one_line(found.says)
    if status is not None and status.connected:
        # It accepts the owner: it may allow clients by their ids.
        return Finding("broker", Verdict.WARN, f"it accepts the owner, but not this command: {says}", fix)  # fmt: skip
    return Finding("broker", Verdict.FAIL, says, fix)


def _other_version(settings: Settings, seen: Visit) -> Diagnosis | None:
    """Return the diagnosis for a broker that speaks another version of MQTT than MQTT_PROTOCOL."""
    error = seen.error
    refused = isinstance(error, RefusedError) and error.code == UNSUPPORTED_PROTOCOL
    if settings.protocol == "auto" or not (refused or seen.is_unanswered):
        return None
    other: Protocol = "3.1.1" if settings.protocol == "5" else "5"
    if visit(structs.replace(settings, protocol=other)).connected is None:
        return None
    return Diagnosis(
        f"{settings.broker} speaks MQTT {other}, not {settings.protocol}: {seen.diagnosis.says}",
        version_fix(settings.protocol),
    )


def _may_be_another_service(seen: Visit) -> bool:
    cause = seen.error.__cause__ if seen.error is not None else None
    told = isinstance(seen.error, RefusedError | ProtocolRefusedError)
    return not told and not isinstance(cause, ssl.SSLCertVerificationError)


def _client_id(settings: Settings, status: SyncStatus | None) -> str:
    if not settings.local_mode:
        return settings.client_id or "arus_follow_<name of the follower>"
    vessel_id = settings.vessel_id or (status.vessel_id if status is not None else None)
    return settings.client_id or f"arus_sync_{vessel_id or '<VESSEL_ID>'}"


# -- it accepts the connection --------------------------------------------------------------------


def _accepted(settings: Settings, status: SyncStatus | None, seen: Visit) -> Finding:
    assert seen.connected is not None
    spoken = seen.connected.protocol
    says = f"{settings.broker} accepts MQTT {spoken}, in {seen.seconds * 1000:.0f} ms"
    if status is not None and status.enabled and status.owner and not status.connected:
        last = Diagnosis.parse(status.reason or "")
        if status.reconnect_attempts and last.says:
            return _owner_refused(settings, status, says, last)
    if (lack := lack_of(seen.connected)) is not None:
        what, fix = lack
        return Finding("broker", Verdict.WARN, f"{says}, {what}", fix)
    if spoken == "3.1.1" and settings.protocol == "auto":
        return Finding(
            "broker",
            Verdict.WARN,
            f"{says}: with that version it can't report that it refuses a message",
            "use a broker that supports MQTT 5",
        )
    return Finding("broker", Verdict.OK, says)


def _owner_refused(settings: Settings, status: SyncStatus, says: str, last: Diagnosis) -> Finding:
    """Return the finding for a broker that accepts this command, but not the owner at its last attempt."""
    fix = last.fix or "the broker's log says why"
    if last.says.startswith("the broker"):
        client_id = _client_id(settings, status)
        fix += f"; this command has another client id: allow {client_id} at the broker"
    else:
        fix = f"none needed if the broker was down until now: the owner tries again every {settings.reconnect_period:g} s"
    return Finding(
        "broker",
        Verdict.WARN,
        f"{says}, but the owner's last attempt ({status.reconnect_attempts}) failed: {one_line(last.says)}",
        fix,
    )
