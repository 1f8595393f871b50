"""Limits and behaviour of the broker: what it does not announce is detected, and kept for later owners."""

from __future__ import annotations

import time

from sqlalchemy import Connection

from arus.logs import get_logger
from arus.mqtt.client import Session
from arus.mqtt.events import Connected
from arus.mqtt.features import EXACTLY_ONCE, FoundQos
from arus.mqtt.handshakes import Allowance
from arus.mqtt.probe import HandshakeProbe, QosProbe
from arus.outbox.brokers import save_broker
from arus.outbox.log import ChangeLog
from arus.protocol.times import now_ms
from arus.settings import Settings

logger = get_logger(__name__)

#: How often changes must wait for a handshake on MQTT 3.1.1 before the number that the broker accepts is probed.
WORTH_A_PROBE = 5
#: Seconds before it is probed again after a probe without a result.
PROBE_INTERVAL = 60.0


class BrokerTraits:
    """The known properties of the broker. Runs in the relay's thread."""

    def __init__(self, log: ChangeLog, session: Session, settings: Settings) -> None:
        self._log = log
        self._session = session
        self._settings = settings
        self._known = log.broker(str(settings.broker))
        session.negotiation.found = self._known.found
        session.features.found = self._known.qos
        session.features.lowers_qos = self._known.lowers_qos
        self._probe: HandshakeProbe | QosProbe | None = None
        #: No probe begins before this time, in monotonic seconds.
        self._probe_from = 0.0

    def opened(self, connected: Connected) -> Allowance | None:
        """Note the properties shown by a connection; return the handshakes that the broker was found to accept."""
        self._known.found = self._session.negotiation.found
        if not connected.session_present:
            self._known.allowance = None  # the broker was restarted, maybe with other settings
        self._take_features()
        return self._known.allows(now_ms())

    def save(self, connection: Connection) -> None:
        """Save the known properties, in the owner's transaction."""
        save_broker(connection, self._known)

    def step(self, handshake_waits: int) -> Allowance | None:
        """Save what was found out since the last call, and probe if that is worthwhile; to be called at each poll.

        :param handshake_waits: how often a change had to wait for a handshake in this connection.
        :returns: how many handshakes the broker accepts, if a probe has found that out since the last call.
        """
        allowance = self._probed(handshake_waits)
        if self._take_features() or allowance is not None:
            with self._log.fenced_transaction() as fenced:
                self.save(fenced.connection)
        return allowance

    def stop(self, timeout: float) -> None:
        """Cancel a running probe, within `timeout` seconds."""
        if self._probe is not None:
            self._probe.give_up(timeout)

    # -- features -----------------------------------------------------------------------------------

    def _take_features(self) -> bool:
        """Take over what the broker supports; log it if it has changed, and return whether it has."""
        known, features = self._known, self._session.features
        before = (known.lowers_qos, known.retains, known.qos and known.qos.maximum)
        if known.qos is None or known.qos.maximum != features.maximum_qos:
            self._log_qos(features.maximum_qos)
        if known.retains != features.retains:
            self._log_retains(features.retains)
        found = features.found
        if features.maximum_qos < EXACTLY_ONCE and (found is None or found.maximum > 1):
            found = FoundQos(features.maximum_qos, now_ms())  # announced for this connection
        known.qos = found
        known.lowers_qos, known.retains = features.lowers_qos, features.retains
        return before != (known.lowers_qos, known.retains, known.qos and known.qos.maximum)

    def _log_qos(self, maximum: int) -> None:
        if maximum < EXACTLY_ONCE:
            logger.warning(
                "[MQTT Reliable Sync] %s does not support QoS 2: alerts are sent with QoS 1, and may reach"
                " subscribers twice after a lost connection; QoS 2 is tried again in a day",
                self._settings.broker,
            )
        elif self._known.qos is not None:
            logger.info(
                "[MQTT Reliable Sync] %s supports QoS 2 again: alerts are sent with it",
                self._settings.broker,
            )

    def _log_retains(self, retains: bool) -> None:
        if retains:
            logger.info(
                "[MQTT Reliable Sync] %s has retained messages again", self._settings.broker
            )
        else:
            logger.warning(
                "[MQTT Reliable Sync] %s has no retained messages: everything is sent without the retain"
                " flag, and subscribers that join later receive nothing until the next change",
                self._settings.broker,
            )

    # -- probes -------------------------------------------------------------------------------------

    def _probed(self, handshake_waits: int) -> Allowance | None:
        if self._probe is None:
            self._probe = self._next_probe(handshake_waits)
            if self._probe is not None:
                self._probe.start()
            return None
        if self._probe.is_alive():
            return None
        probe, self._probe = self._probe, None
        self._probe_from = time.monotonic() + PROBE_INTERVAL
        if isinstance(probe, QosProbe):
            self._session.features.tried(probe.found, now_ms())
            return None
        if probe.found is None or self._session.v5:
            return None
        self._known.allowance, self._known.allowance_at = probe.found, now_ms()
        return probe.found

    def _next_probe(self, handshake_waits: int) -> HandshakeProbe | QosProbe | None:
        session = self._session
        if time.monotonic() < self._probe_from:
            return None
        if session.features.wants_check(now_ms()):
            version = session.negotiation.choose(now_ms())
            return QosProbe(self._settings, session, version)
        if self._is_worth_counting(handshake_waits):
            return HandshakeProbe(self._settings, session)
        return None

    def _is_worth_counting(self, handshake_waits: int) -> bool:
        return (
            not self._session.v5
            and handshake_waits >= WORTH_A_PROBE
            and self._known.allows(now_ms()) is None
        )
