"""Failures below MQTT: each has its words and its own fix."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from typing import Any

import pytest
from paho.mqtt.client import WebsocketConnectionError

from arus.mqtt.failures import CLOSED, SILENT, diagnose, unanswered
from arus.settings import Settings, load


def settings(scheme: str = "mqtt", **values: str) -> Settings:
    return load({"MQTT_BROKER_URL": f"{scheme}://me:quokka@shore:1234", **values})


def certificate(code: int, words: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, words)
    error.verify_code, error.verify_message = code, words
    return error


def tls(reason: str, library: str = "SSL") -> ssl.SSLError:
    error = ssl.SSLError(1, f"[{library}: {reason}] words (_ssl.c:1)")
    error.reason, error.library = reason, library
    return error


CA, HOST, CLIENT = (
    "set MQTT_TLS_CA",
    "host name of the certificate",
    "set MQTT_TLS_CERT and MQTT_TLS_KEY",
)


@pytest.mark.parametrize(
    ("error", "says", "fix"),
    [
        (certificate(10, "certificate has expired"), "certificate has expired", "renew the broker's certificate"),
        (certificate(9, "certificate is not yet valid"), "not yet valid", "set this machine's clock"),
        (certificate(62, "Hostname mismatch"), "Hostname mismatch", HOST),
        (certificate(64, "IP address mismatch"), "IP address mismatch", HOST),
        (certificate(18, "self-signed certificate"), "self-signed", "MQTT_TLS_CA to that certificate"),
        (certificate(19, "self-signed certificate in certificate chain"), "self-signed", f"{CA} to the CA"),
        (certificate(20, "unable to get local issuer certificate"), "unable", f"{CA} to the CA"),
        (tls("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "requires a client certificate", CLIENT),
        (tls("TLSV1_ALERT_UNKNOWN_CA"), "refuses the client certificate", "signed by a CA that the broker knows"),
        (tls("SSLV3_ALERT_BAD_CERTIFICATE"), "refuses the client certificate", CLIENT),
        (tls("SSLV3_ALERT_CERTIFICATE_EXPIRED"), "refuses the client certificate", "not expired"),
        (tls("SSLV3_ALERT_CERTIFICATE_REVOKED"), "refuses the client certificate", CLIENT),
        (tls("TLSV1_ALERT_ACCESS_DENIED"), "refuses the client certificate", CLIENT),
        (tls("TLSV1_ALERT_PROTOCOL_VERSION"), "no version of TLS", "allow TLS 1.2 or 1.3"),
        (tls("UNSUPPORTED_PROTOCOL"), "no version of TLS", "allow TLS 1.2 or 1.3"),
        (tls("TLSV1_UNRECOGNIZED_NAME"), "no certificate for this host name", "host name"),
        (tls("WRONG_VERSION_NUMBER"), "does not speak TLS", "mqtt:// for a port without TLS"),
        (tls("HTTP_REQUEST"), "does not speak TLS", "8883"),
        (tls("SSLV3_ALERT_HANDSHAKE_FAILURE"), "no cipher in common", "ciphers"),
        (tls("KEY_VALUES_MISMATCH", "X509"), "is not the key of the certificate", "the key that belongs"),
        (tls("NO_CERTIFICATE_OR_CRL_FOUND", "X509"), "MQTT_TLS_CA contains no certificate", CA),
        (tls("PEM lib"), "can't be read as PEM", CLIENT),
        (tls("SOMETHING_NEW"), "no TLS with mqtts://shore:1234: SOMETHING_NEW", "the broker's log"),
        (ssl.SSLEOFError(8, "EOF occurred"), "does the broker speak TLS there?", "mqtt://"),
        (ConnectionResetError(104, "reset"), "does the broker speak TLS there?", "mqtt://"),
        (PermissionError(13, "Permission denied", "/etc/key.pem"), "/etc/key.pem can't be read", "server's user"),
    ],
)  # fmt: skip
def test_tls(error: Exception, says: str, fix: str) -> None:
    check(error, settings("mqtts"), says, fix)


@pytest.mark.parametrize(
    ("error", "says", "fix"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "'shore' can't be resolved: there is no such", "correct the host"),
        (socket.gaierror(socket.EAI_AGAIN, "later"), "the name server does not answer", "check the name server"),
        (UnicodeError("label too long"), "not a valid host name", "correct the host"),
        (ConnectionRefusedError(111, "refused"), "can't be reached: connection refused", "start the broker"),
        (TimeoutError("timed out"), "no answer within 10 s", "firewall"),
        (OSError(errno.ENETUNREACH, "x"), "no route", "router"),
        (OSError(errno.EHOSTUNREACH, "x"), "no route", "router"),
        (ConnectionResetError(104, "reset"), "it closed the connection", "start the broker"),
        (OSError(errno.EMFILE, "Too many open files"), "can't be reached: Too many open files", "wait"),
    ],
)  # fmt: skip
def test_names_and_tcp(error: Exception, says: str, fix: str) -> None:
    check(error, settings(), says, fix)


def test_a_handshake_that_is_not_answered_is_not_an_unreachable_host() -> None:
    for scheme, handshake in (("mqtts", "TLS"), ("ws", "WebSocket")):
        found = diagnose(TimeoutError("timed out"), settings(scheme), is_reached=True)
        assert f"does not answer the {handshake} handshake" in found.says


@pytest.mark.parametrize(
    ("heard", "says", "fix"),
    [
        ("200 OK", "200 OK", "a web page is there"),
        ("301 Moved\r\nLocation: https://me:quokka@new.example/x", "301 Moved", "https://***@new.example/x"),
        ("302 Found", "302 Found", "its new address"),
        ("400 Bad Request", "400 Bad Request", "wss://"),
        ("401 Unauthorized", "401 Unauthorized", "without a login of its own"),
        ("403 Forbidden", "403 Forbidden", "Origin header http://shore:1234"),
        ("404 Not Found", "404 Not Found", "path"),
        ("407 Proxy Authentication Required", "407 Proxy", "HTTP proxy"),
        ("426 Upgrade Required", "426 Upgrade", "headers Upgrade and Connection"),
        ("429 Too Many Requests", "429 Too Many", "wait"),
        ("502 Bad Gateway", "502 Bad Gateway", "start the broker behind the proxy"),
        ("503 Service Unavailable", "503 Service", "start the broker behind the proxy"),
        ("504 Gateway Timeout", "504 Gateway", "start the broker behind the proxy"),
        ("101 Switching Protocols", "101 Switching", "no valid WebSocket handshake"),
        ("599 What", "599 What", "log"),
    ],
)  # fmt: skip
def test_a_websocket_that_is_refused(heard: str, says: str, fix: str) -> None:
    answer = f"HTTP/1.1 {heard}\r\nServer: x\r\n\r\n".encode()
    check(WebsocketConnectionError("no"), settings("ws"), f"refuses the WebSocket: HTTP/1.1 {says}", fix, answer)  # fmt: skip


def test_a_websocket_that_is_answered_by_no_web_server() -> None:
    for answer, says in ((b"", "closed the connection"), (b"SSH-2.0-x\r\n", "an SSH server")):
        assert says in diagnose(WebsocketConnectionError("no"), settings("ws"), answer).says


UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"


@pytest.mark.parametrize(
    ("scheme", "values", "heard", "hung_up", "says", "fix"),
    [
        ("mqtt", {}, b"", False, SILENT, "is an MQTT broker's"),
        ("mqtt", {}, b"", True, CLOSED, "mqtts://"),
        ("mqtts", {}, b"", True, CLOSED, "client certificate"),
        ("mqtt", {"MQTT_PROTOCOL": "5"}, b"", True, CLOSED, "MQTT_PROTOCOL=5 allows no other"),
        ("ws", {}, UPGRADED + b"\r\n", True, "did not choose the subprotocol mqtt", "path"),
        ("ws", {}, UPGRADED + b"Sec-WebSocket-Protocol: mqtt\r\n\r\n", True, CLOSED, "port"),
    ],
)
def test_connect_without_an_answer(
    scheme: str, values: dict[str, str], heard: bytes, hung_up: bool, says: str, fix: str
) -> None:
    found = unanswered(settings(scheme, **values), heard, hung_up=hung_up)
    assert says in found.says
    assert found.fix
    assert fix in found.fix


def check(error: Exception, wanted: Any, says: str, fix: str, heard: bytes = b"") -> None:
    found = diagnose(error, wanted, heard)
    assert says in found.says
    assert found.fix
    assert fix in found.fix
    assert not re.search("quokka|PASSWORD|{", str(found))
    assert "\n" not in str(found)
