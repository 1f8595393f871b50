"""The findings about QoS 2 and retained messages: what the owner has learned, and what the broker announces."""

from __future__ import annotations

from collections.abc import Iterator

from arus.mqtt.events import Connected
from arus.mqtt.features import EXACTLY_ONCE
from arus.outbox.brokers import read_broker
from arus.protocol.times import now_ms

from .finding import Finding, Verdict
from .vessel import Vessel

_NOT_TWICE = (
    "subscribers recognise a duplicate by its messageId; Mosquitto, EMQX and HiveMQ support QoS 2"
)
_NO_RETAINED = (
    "subscribers that join later receive nothing until the next change, and neither a restored backup nor a second"
    " client with our id can be noticed"
)
_ALLOW_RETAINED = "allow retained messages in the broker's configuration"


def check_qos(vessel: Vessel) -> Iterator[Finding]:
    """Report what the owner has learned about the broker."""
    with vessel.engine.connect() as connection:
        known = read_broker(connection, str(vessel.settings.broker))
    if known.lowers_qos:
        says = "the broker lowers QoS 2 to 1: after a lost connection an alert may arrive twice"
        yield Finding("qos", Verdict.WARN, says, _NOT_TWICE)
    elif known.lacks_qos_2:
        says = (
            "the broker does not support QoS 2: alerts are sent with QoS 1, and may arrive twice after a lost"
            " connection; QoS 2 is tried again once a day"
        )
        yield Finding("qos", Verdict.WARN, says, _NOT_TWICE)
    elif known.found and known.found.version == "3.1.1" and known.allows(now_ms()):
        accepted = known.allowance.handshakes if known.allowance else 1
        yield Finding("qos", Verdict.OK, f"with MQTT 3.1.1 it accepts {accepted} alerts at a time")
    if not known.retains:
        says = f"the broker has no retained messages: {_NO_RETAINED}"
        yield Finding("retain", Verdict.WARN, says, _ALLOW_RETAINED)


def lack_of(connected: Connected) -> tuple[str, str] | None:
    """Return what a broker announces that it does not support, and what to do; None if it supports all that is used."""
    if connected.maximum_qos is not None and connected.maximum_qos < EXACTLY_ONCE:
        return "but does not support QoS 2: an alert may arrive twice", _NOT_TWICE
    if not connected.retains:
        return f"but has no retained messages: {_NO_RETAINED}", _ALLOW_RETAINED
    return None
