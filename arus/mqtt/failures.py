"""Failures of a connection below MQTT: name lookup, TCP, TLS and the WebSocket handshake; what each means, and its fix."""

from __future__ import annotations

import errno
import re
import socket
import ssl

from paho.mqtt.client import WebsocketConnectionError

from arus.settings import Broker, Settings

from .banners import identify
from .diagnosis import Diagnosis, quoted
from .transport import is_reset

#: OpenSSL's codes for a certificate that is not accepted: X509_V_ERR_* of <openssl/x509_vfy.h>.
_NOT_YET_VALID, _EXPIRED = 9, 10
_SELF_SIGNED = 18
_OTHER_HOST, _OTHER_ADDRESS = 62, 64

_WAIT = "at sea, wait: the sync keeps trying"
_NO_TLS = (
    "set the port for TLS (usually 8883) in MQTT_BROKER_URL, or {plain}:// for a port without TLS"
)
_OWN_CERTIFICATE = "set MQTT_TLS_CERT and MQTT_TLS_KEY to a certificate that the broker accepts"

#: TLS errors by the beginning of OpenSSL's name for them: what is wrong, and how to fix it.
_TLS = (
    (
        r"TLSV13_ALERT_CERTIFICATE_REQUIRED|PEER_DID_NOT_RETURN_A_CERTIFICATE",
        "requires a client certificate",
        _OWN_CERTIFICATE,
    ),
    (
        r"(SSLV3|TLSV1)_ALERT_(UNKNOWN_CA|BAD_CERT|CERTIFICATE_|UNSUPPORTED_CERT|ACCESS_DENIED|DECRYPT_ERR)",
        "refuses the client certificate",
        f"{_OWN_CERTIFICATE}: not expired, and signed by a CA that the broker knows",
    ),
    (
        r"TLSV1_ALERT_PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL|WRONG_SSL_VERSION|NO_PROTOCOLS|VERSION_TOO_LOW",
        "supports no version of TLS that this client accepts",
        "allow TLS 1.2 or 1.3 at the broker",
    ),
    (
        r"TLSV1_UNRECOGNIZED_NAME",
        "has no certificate for this host name",
        "set the host name of the broker's certificate in MQTT_BROKER_URL",
    ),
    (
        r"WRONG_VERSION_NUMBER|HTTPS?_|UNEXPECTED_EOF|PACKET_LENGTH|RECORD_|UNEXPECTED_MESSAGE|BAD_RECORD",
        "does not speak TLS",
        _NO_TLS,
    ),
    (
        r"\w*HANDSHAKE_FAILURE|NO_SHARED_CIPHER|DH_KEY_TOO_SMALL|NO_CIPHERS|TLSV1_ALERT_INSUFFICIENT_SECURITY",
        "ends the TLS handshake: no cipher in common, or it requires a client certificate",
        f"{_OWN_CERTIFICATE}, or allow current ciphers at the broker",
    ),
)

#: Errors in our own files, by OpenSSL's name for them.
_FILES = (
    (
        r"KEY_VALUES_MISMATCH|KEY_TYPE_MISMATCH",
        "MQTT_TLS_KEY is not the key of the certificate MQTT_TLS_CERT",
        "set the key that belongs to the certificate",
    ),
    (
        r"NO_CERTIFICATE_OR_CRL_FOUND",
        "MQTT_TLS_CA contains no certificate",
        "set MQTT_TLS_CA to a PEM file with the CA's certificate",
    ),
    (
        r".*PEM|NO_START_LINE|BAD_|EE_KEY|ASN1|NOT_ENOUGH_DATA|BAD_DECRYPT",
        "MQTT_TLS_CERT or MQTT_TLS_KEY can't be read as PEM",
        "set MQTT_TLS_CERT and MQTT_TLS_KEY to PEM files, the key without a passphrase",
    ),
)

#: What to do about each HTTP status with which a WebSocket was refused, and what the status means here.
_PATH = "set the WebSocket path of the broker in MQTT_BROKER_URL (usually /mqtt or /)"
_PASS_UPGRADE = (
    "make the proxy pass the headers Upgrade and Connection to the broker's WebSocket port"  # noqa: S105  # no password
)
_STATUSES = {
    101: "the answer is no valid WebSocket handshake: take the proxy or cache out of the way",
    200: f"a web page is there: {_PATH}",
    400: f"{_PATH}; if the port expects TLS, wss://; {_PASS_UPGRADE}",
    401: "let the web server pass this path on without a login of its own: MQTT has one",
    403: "allow this path, this address and the Origin header {origin} at the web server",
    404: _PATH,
    405: _PATH,
    407: "let the HTTP proxy pass connections to the broker without a login",
    426: _PASS_UPGRADE,
    429: "wait; if it lasts, raise the web server's limit for requests",
    500: "the web server's log says why",
    502: "start the broker behind the proxy, or correct its address in the proxy's configuration",
    503: "start the broker behind the proxy, or wait: the proxy finds it unavailable",
    504: "start the broker behind the proxy, or correct its address in the proxy's configuration",
}


def diagnose(
    error: Exception, settings: Settings, heard: bytes = b"", *, is_reached: bool = False
) -> Diagnosis:
    """Return why a connection could not be made, or was lost before the broker has accepted it.

    :param heard: what the other side has answered to a WebSocket handshake.
    :param is_reached: there was a TCP connection.
    """
    broker = settings.broker
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate(error, broker)
    if isinstance(error, WebsocketConnectionError):
        return websocket(heard, broker)
    if broker.tls and is_reset(error):
        return Diagnosis(
            f"{broker} closed the connection in the TLS handshake; does the broker speak TLS there?",
            _filled(_NO_TLS, broker),
        )
    if isinstance(error, ssl.SSLError):
        return _tls(error, broker)
    if isinstance(error, socket.gaierror):
        return _name(error, broker)
    if isinstance(error, UnicodeError):
        says = f"the name {broker.host!r} can't be resolved: it is not a valid host name"
        return Diagnosis(says, "correct the host in MQTT_BROKER_URL")
    if isinstance(error, TimeoutError) and is_reached:
        return _silent(settings)
    if isinstance(error, OSError) and error.filename is not None:
        return Diagnosis(
            f"{error.filename} can't be read: {error.strerror}",
            "let the server's user read the files in MQTT_TLS_CA, MQTT_TLS_CERT and MQTT_TLS_KEY",
        )
    return _tcp(error, settings)


def _certificate(error: ssl.SSLCertVerificationError, broker: Broker) -> Diagnosis:
    says = f"the broker's certificate is not accepted: {error.verify_message}"
    if error.verify_code in {_NOT_YET_VALID, _EXPIRED}:
        fix = "renew the broker's certificate, or set this machine's clock if it is wrong"
    elif error.verify_code in {_OTHER_HOST, _OTHER_ADDRESS}:
        fix = f"set the host name of the certificate in MQTT_BROKER_URL, or issue one for {broker.host}"
    elif error.verify_code == _SELF_SIGNED:
        fix = "set MQTT_TLS_CA to that certificate, which is signed by itself"
    else:
        fix = "set MQTT_TLS_CA to the CA that signed it"
    return Diagnosis(says, fix)


def _tls(error: ssl.SSLError, broker: Broker) -> Diagnosis:
    name = error.reason or str(error)
    if error.library in {"X509", "PEM", "ASN1"} or "PEM lib" in name:
        for pattern, says, fix in _FILES:
            if re.match(pattern, name):
                return Diagnosis(says, fix)
    for pattern, says, fix in _TLS:
        if re.match(pattern, name):
            return Diagnosis(f"{broker} {says} ({name})", _filled(fix, broker))
    return Diagnosis(f"no TLS with {broker}: {quoted(name)}", "the broker's log says why")


def _filled(fix: str, broker: Broker) -> str:
    return fix.format(plain="ws" if broker.websockets else "mqtt")


def _name(error: socket.gaierror, broker: Broker) -> Diagnosis:
    says = f"the name {broker.host!r} can't be resolved"
    if error.errno == socket.EAI_AGAIN:
        return Diagnosis(
            f"{says}: the name server does not answer", f"check the name server; {_WAIT}"
        )
    return Diagnosis(f"{says}: there is no such name", "correct the host in MQTT_BROKER_URL")


def _silent(settings: Settings) -> Diagnosis:
    broker = settings.broker
    handshake = "WebSocket" if broker.websockets else "TLS"
    return Diagnosis(
        f"{broker} accepts the connection but does not answer the {handshake} handshake within"
        f" {settings.connect_timeout:g} s",
        f"check the scheme and port in MQTT_BROKER_URL; {_WAIT}",
    )


def _tcp(error: Exception, settings: Settings) -> Diagnosis:
    broker = settings.broker
    says = f"{broker} can't be reached"
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, ConnectionRefusedError):
        fix = "start the broker, or set its port in MQTT_BROKER_URL"
        return Diagnosis(f"{says}: connection refused, nothing listens on this port", fix)
    if isinstance(error, TimeoutError):
        fix = f"{_WAIT}; elsewhere, check the host, the port and the firewall"
        return Diagnosis(f"{says}: no answer within {settings.connect_timeout:g} s", fix)
    if number in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}:
        fix = f"{_WAIT}; elsewhere, check the network cable, the router and the address"
        return Diagnosis(f"{says}: no route to it", fix)
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return Diagnosis(
            f"{says}: it closed the connection", "start the broker, and check its port"
        )
    words = error.strerror if isinstance(error, OSError) and error.strerror else error
    return Diagnosis(f"{says}: {quoted(str(words))}", _WAIT)


# -- WebSockets -----------------------------------------------------------------------------------


def websocket(heard: bytes, broker: Broker) -> Diagnosis:
    """Return why a WebSocket handshake failed.

    :param heard: the beginning of the answer.
    """
    if not heard:
        says = f"{broker} closed the connection in the WebSocket handshake"
        return Diagnosis(says, "check the port in MQTT_BROKER_URL; for a port with TLS, use wss://")
    found = re.match(rb"HTTP/\d(?:\.\d)? +(\d{3})[^\r\n]*", heard)
    if found is None:
        return identify(heard, broker)
    status = int(found[1])
    says = f"{broker} refuses the WebSocket: {quoted(found[0])}"
    moved = re.search(rb"^location:\s*([^\r\n]+)", heard, re.IGNORECASE | re.MULTILINE)
    if 300 <= status < 400:
        where = quoted(moved[1]) if moved else "its new address"
        return Diagnosis(says, f"set MQTT_BROKER_URL to where it has moved: {where}")
    fix = _STATUSES.get(status, "the web server's log says why")
    scheme = "https" if broker.tls else "http"
    return Diagnosis(says, fix.format(origin=f"{scheme}://{broker.host}:{broker.port}"))


def without_subprotocol(heard: bytes) -> bool:
    """Whether a WebSocket handshake succeeded without the subprotocol mqtt, which a broker must choose (6.0)."""
    chosen = re.search(rb"^sec-websocket-protocol:\s*mqtt\s*$", heard, re.IGNORECASE | re.MULTILINE)
    return heard.startswith(b"HTTP/") and chosen is None


# -- no answer to CONNECT -------------------------------------------------------------------------


#: How a CONNECT remains without an answer.
SILENT = "the broker did not answer CONNECT in time"
CLOSED = "the broker closed the connection instead of answering CONNECT"


def unanswered(settings: Settings, heard: bytes = b"", *, hung_up: bool) -> Diagnosis:
    """Return why a CONNECT may be unanswered.

    :param heard: the answer to the WebSocket handshake before.
    :param hung_up: the other side has closed the connection.
    """
    broker = settings.broker
    if broker.websockets and without_subprotocol(heard):
        says = f"the WebSocket at {broker} is not an MQTT broker's: it did not choose the subprotocol mqtt"
        return Diagnosis(says, _PATH)
    says = CLOSED if hung_up else SILENT
    fixes = ["check that the port in MQTT_BROKER_URL is an MQTT broker's"]
    if hung_up and not broker.tls:
        fixes.append("for a port with TLS use mqtts:// or wss://")
    if hung_up and broker.tls:
        fixes.append(f"if it requires a client certificate, {_OWN_CERTIFICATE}")
    if settings.protocol != "auto":
        fixes.append(f"MQTT_PROTOCOL={settings.protocol} allows no other version: set auto")
    return Diagnosis(says, "; ".join(fixes))
