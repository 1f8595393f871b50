"""Flask-MQTT's client, adapted to open several connections in succession: CONNECT, its answer, and the end."""

from __future__ import annotations

import math
import ssl
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from flask_mqtt import Mqtt
from paho.mqtt.client import Client, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from arus.errors import (
    ConnectError,
    ConnectionLostError,
    ProtocolRefusedError,
    RefusedError,
    SessionError,
)
from arus.protocol.times import now_ms
from arus.settings import Settings

from .aliases import NOT_UNDERSTOOD, TopicAliases
from .banners import identify, is_mqtt
from .diagnosis import Diagnosis
from .durable_client import DurableClient
from .events import Connected
from .failures import diagnose, unanswered
from .features import QOS_NOT_SUPPORTED, Features
from .meter import Meter
from .negotiation import Negotiation, Version
from .packets import PUBLISH_OVERHEAD
from .reason_codes import UNSUPPORTED_PROTOCOL, Kind, Refusal, RefusedClient, read_refusal
from .transport import is_reset, prepare, send_at_once

#: The session expiry interval that means never (MQTT 5, 3.1.2.11.2).
_NEVER_EXPIRES = 0xFFFFFFFF
_PROTOCOLS = {"5": MQTTProtocolVersion.MQTTv5, "3.1.1": MQTTProtocolVersion.MQTTv311}


class Connector(Mqtt):
    """Opens the connections of one session.

    :param receive_maximum: messages that the broker may send before they are acknowledged (MQTT 5).
    :param lasting: whether the broker keeps its half of the session between connections.
    :param meter: counts what leaves.
    :param accepted: called with the broker's answer to CONNECT if it accepts the session.
    """

    def __init__(
        self,
        settings: Settings,
        client_id: str,
        *,
        receive_maximum: int,
        lasting: bool,
        accepted: Callable[[Connected], None],
        meter: Meter,
    ) -> None:
        with warnings.catch_warnings():
            # Flask-MQTT first creates a client with paho's old callback version; ours replaces it.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            super().__init__(connect_async=True)
        self._settings = settings
        self._wanted_client_id = client_id
        self._receive_maximum = receive_maximum
        self._lasting = lasting
        self._accepted = accepted
        self._meter = meter
        self.negotiation = Negotiation(settings.protocol)
        self.features = Features()
        #: The topic aliases of the connection; they are used until a broker does not understand them.
        self.aliases = TopicAliases()
        self._has_aliases = True
        #: The MQTT version of the connection and of the client.
        self.version: Version = "5"
        self.client: DurableClient = self._make_client()
        #: Why the connection has ended, if the broker or paho has reported it.
        self.ended: SessionError | None = None
        #: A CONNECT was sent and not answered yet.
        self._asking = False
        #: Nothing was received in this connection yet.
        self._is_first = False
        self._clean_start = False
        #: Bytes of the largest packet that the broker accepts in this connection; infinity if it does not say.
        self._maximum_packet = math.inf

    def open(self, *, clean_start: bool, will_topic: str | None, will: bytes | None) -> None:
        """Open a connection and queue CONNECT.

        :raises ConnectError: the broker can't be reached, or its certificate is not accepted.
        """
        self.version = self.negotiation.choose(now_ms())
        self.ended = None
        self._maximum_packet = math.inf
        self.aliases = TopicAliases()
        self._clean_start = clean_start
        self.client = self._make_client()
        config = self._flask_mqtt_config(will_topic, will)
        try:
            # Flask-MQTT needs only the application's config; init_app ends with _connect below.
            application: Any = SimpleNamespace(config=config)
            self.init_app(application)
            self.client.reconnect()
        except (OSError, ValueError) as error:
            self.client.give_up()
            found = diagnose(
                error, self._settings, self.client.heard, is_reached=self.client.is_reached
            )
            raise ConnectError(found.says, fix=found.fix) from error
        self._asking = self._is_first = True
        send_at_once(self.client.socket())

    def close(self) -> None:
        """Drop the connection without DISCONNECT: the broker publishes the will."""
        self.connected = False
        if self._asking:
            self._asking = False
            self.negotiation.unanswered(self.version)
        self.client.close()

    def read(self) -> bytes:
        """Return the bytes that have arrived.

        :raises BlockingIOError: nothing has arrived.
        :raises SessionError: the connection has ended, or the other side is no MQTT broker.
        :raises MalformedPacketError: it is a WebSocket, and the broker breaks its rules.
        """
        try:
            data = self.client.read()
        except BlockingIOError:
            raise
        except OSError as error:
            raise self.lost(error) from error
        if not data:
            raise self.lost(None)
        self._check_beginning(data)
        return data

    def accepts(self, topic: str, payload: bytes) -> bool:
        """Whether a message is not larger than the broker has announced to accept (MQTT 5, 3.2.2.3.6)."""
        return len(topic.encode()) + len(payload) + PUBLISH_OVERHEAD <= self._maximum_packet

    def _make_client(self) -> DurableClient:
        return DurableClient(
            self._wanted_client_id,
            _PROTOCOLS[self.version],
            websockets=self._settings.broker.websockets,
            meter=self._meter,
        )

    def _flask_mqtt_config(self, will_topic: str | None, will: bytes | None) -> dict[str, Any]:
        settings = self._settings
        config: dict[str, Any] = {
            "MQTT_CLIENT_ID": self._wanted_client_id,
            "MQTT_CLEAN_SESSION": self._clean_start,
            "MQTT_TRANSPORT": "websockets" if settings.broker.websockets else "tcp",
            "MQTT_PROTOCOL_VERSION": _PROTOCOLS[self.version],
            "MQTT_BROKER_URL": settings.broker.host,
            "MQTT_BROKER_PORT": settings.broker.port,
            "MQTT_KEEPALIVE": settings.keepalive,
        }
        if will_topic is not None:
            config |= {
                "MQTT_LAST_WILL_TOPIC": will_topic,
                "MQTT_LAST_WILL_MESSAGE": will,
                "MQTT_LAST_WILL_QOS": 1,
                "MQTT_LAST_WILL_RETAIN": self.features.retains,
            }
        return config

    def _connect(self) -> None:
        """Replace Flask-MQTT's method: set credentials, TLS and MQTT 5 properties, but start no network or thread."""
        client = self.client
        prepare(client, self._settings)
        properties = None
        if self.version == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
            properties.SessionExpiryInterval = _NEVER_EXPIRES if self._lasting else 0
            properties.ReceiveMaximum = self._receive_maximum
            properties.MaximumPacketSize = self._settings.max_packet_size
        client.connect_async(
            self.broker_url,
            self.broker_port,
            keepalive=self.keepalive,
            clean_start=self._clean_start,
            properties=properties,
        )

    def _handle_connect(  # Flask-MQTT's method has the signature of paho's first callback version
        self,
        _client: Client,
        _userdata: Any,
        flags: Any,
        reason: ReasonCode,
        properties: Properties,
    ) -> None:
        assert not reason.is_failure, "`read_refusal` has missed it"
        self._asking = False
        connected = Connected(
            session_present=flags.session_present,
            receive_maximum=getattr(properties, "ReceiveMaximum", None),
            maximum_packet_size=getattr(properties, "MaximumPacketSize", None),
            protocol=self.version,
            maximum_qos=getattr(properties, "MaximumQoS", None),
            retains=getattr(properties, "RetainAvailable", 1) != 0,
        )
        if connected.maximum_qos == 0:
            self.ended = RefusedError(
                "it supports QoS 0 only, which acknowledges nothing",
                QOS_NOT_SUPPORTED,
                fix="allow QoS 1 in the broker's configuration, or use a broker that supports it; changes wait",
            )
            return
        self.connected = True
        self.client.require_keepalive(getattr(properties, "ServerKeepAlive", 0))
        self._maximum_packet = connected.maximum_packet_size or math.inf
        if self._has_aliases and self.version == "5":
            self.aliases = TopicAliases(
                getattr(properties, "TopicAliasMaximum", 0), self._maximum_packet
            )
        self.features.connected(
            maximum_qos=connected.maximum_qos,
            retains=connected.retains,
            wildcards=getattr(properties, "WildcardSubscriptionAvailable", 1) != 0,
            session_present=connected.session_present,
            now=now_ms(),
        )
        self._accepted(connected)

    def _handle_disconnect(  # as above; a DISCONNECT of the broker does not get here
        self,
        _client: Client,
        _userdata: Any,
        _flags: Any,
        reason: ReasonCode,
        _properties: Properties,
    ) -> None:
        self.ended = ConnectionLostError(str(reason))

    # -- why a connection ends ----------------------------------------------------------------------

    def _check_beginning(self, data: bytes) -> None:
        """Check received bytes: the first of a connection must be a broker's.

        :raises ConnectionLostError: they are another service's.
        """
        is_first, self._is_first = self._is_first, False
        if is_first and not is_mqtt(data):
            self._asking = False
            self.negotiation.answered()  # by something that speaks no version of MQTT
            raise _lost(identify(data, self._settings.broker))

    def check_refusal(self, header: int, body: bytes) -> None:
        """Check whether a packet refuses or ends the connection.

        :raises SessionError: it does.
        """
        refusal = read_refusal(header, body, v5=self.version == "5")
        if refusal is None:
            return
        if refusal.kind is Kind.DISCONNECT:
            raise self._told(refusal)
        if self._asking:
            self._asking = False
            raise self._refused(refusal)

    def _refused(self, refusal: Refusal) -> SessionError:
        """Note that the broker refused the connection; return the error."""
        self.features.refused(refusal.code, now_ms())  # the will is retained
        if refusal.code != UNSUPPORTED_PROTOCOL:
            self.negotiation.answered()
        elif self.negotiation.refused(self.version, now_ms()):
            return ProtocolRefusedError()
        return refusal.error(RefusedClient.of(self._settings, self._wanted_client_id))

    def _told(self, refusal: Refusal) -> SessionError:
        """Note that the broker ended the connection with a DISCONNECT; return the error."""
        if self.aliases.is_used and refusal.code in NOT_UNDERSTOOD:
            self._has_aliases = False
        self.features.refused(refusal.code, now_ms())
        return refusal.error(RefusedClient.of(self._settings, self._wanted_client_id))

    def lost(self, error: OSError | ValueError | None) -> SessionError:
        """Return why the connection was lost.

        :param error: the socket's; None if the other side closed it.
        """
        if self._asking and isinstance(error, OSError):
            error = self._alert() or error
        hung_up = error is None or is_reset(error)
        if self._asking and isinstance(error, ssl.SSLError) and not hung_up:
            # In TLS 1.3 the broker checks the client's certificate after the client has finished its handshake.
            return _lost(diagnose(error, self._settings))
        if self._asking and hung_up:
            return _lost(unanswered(self._settings, self.client.heard, hung_up=True), hung_up=True)
        if error is None:
            return ConnectionLostError("the broker closed the connection", hung_up=True)
        return ConnectionLostError(f"the connection was lost: {error}", hung_up=hung_up)

    def _alert(self) -> ssl.SSLError | None:
        """Return the TLS alert with which the broker has ended the connection, if it can still be read."""
        try:
            self.client.read()
        except ssl.SSLError as error:
            return None if is_reset(error) else error
        except OSError:
            return None  # the end of the connection, without an alert
        return None


def _lost(found: Diagnosis, *, hung_up: bool = False) -> ConnectionLostError:
    return ConnectionLostError(found.says, hung_up=hung_up, fix=found.fix)
