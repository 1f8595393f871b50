"""What the session says of a connection that is refused, by a scripted broker or by something that is no broker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from arus.ops.doctor.visit import Visit, visit
from arus.settings import load
from tests.support.certificates import Certificates
from tests.support.mosquitto import Mosquitto
from tests.support.scripted_broker import CONNACK, Link, ScriptedBroker, packet

StartMosquitto = Callable[..., Mosquitto]


def see(url: str, **settings: Any) -> Visit:
    values = {"MQTT_BROKER_URL": url, "MQTT_CONNECT_TIMEOUT": "1"}
    return visit(load({**values, **{name: str(value) for name, value in settings.items()}}))


@contextmanager
def answering(broker: ScriptedBroker, answer: Callable[[Link], None]) -> Iterator[str]:
    """Answer the next CONNECT while the client connects."""

    def run() -> None:
        link = broker.accept()
        link.connect()
        answer(link)

    thread = threading.Thread(target=run)
    thread.start()
    yield broker.url
    thread.join()


@pytest.mark.parametrize(
    ("protocol", "answer", "says", "fix"),
    [
        ("5", b"\x00\x88\x00", "Server unavailable (0x88)", "wait: "),
        ("5", b"\x00\x8a\x00", "Banned (0x8A)", "lift the ban"),
        ("5", b"\x00\xb7\x00", "unknown reason code (0xB7)", "the broker's log"),
        ("5", b"\x00\x87", "Not authorized (0x87)", "MQTT_PASSWORD"),
        ("5", b"\x00\x05", "Not authorized (return code 5)", "MQTT_PASSWORD"),
        ("5", b"\x00\x01", "Unsupported protocol version (return code 1)", "set MQTT_PROTOCOL=auto"),
        ("3.1.1", b"\x00\x01", "Unsupported protocol version (return code 1)", "set MQTT_PROTOCOL=auto"),
        ("3.1.1", b"\x00\x84\x00", "Unsupported protocol version (0x84)", "set MQTT_PROTOCOL=auto"),
        ("3.1.1", b"\x00\x03", "Server unavailable (return code 3)", "wait: "),
        ("3.1.1", b"\x00\x09", "unknown reason code (return code 9)", "the broker's log"),
        ("5", b"\x00\x9d\x08\x1c\x00\x05other", "Server moved (0x9D)", "set MQTT_BROKER_URL to the server that it names: other"),
    ],
)  # fmt: skip
def test_a_refusal_is_named(
    broker: ScriptedBroker, protocol: str, answer: bytes, says: str, fix: str
) -> None:
    with answering(broker, lambda link: link.send(packet(CONNACK, answer))) as url:
        found = see(url, MQTT_PROTOCOL=protocol).diagnosis
    assert found.says == f"the broker refused the connection: {says}"
    assert found.fix
    assert fix in found.fix


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a web server answers (HTTP/1.1 400 Bad Request)"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "an SSH server answers"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "a TLS server answers"),
        (b"220 ship ESMTP\r\n", "a mail server (SMTP) answers"),
    ],
)
def test_another_service_is_named(broker: ScriptedBroker, sent: bytes, says: str) -> None:
    with answering(broker, lambda link: link.send(sent)) as url:
        assert says in see(url).diagnosis.says


def test_a_connection_that_is_closed_at_connect(broker: ScriptedBroker) -> None:
    with answering(broker, Link.close) as url:
        seen = see(url)
    assert "closed the connection instead of answering CONNECT" in seen.diagnosis.says


# -- WebSockets -----------------------------------------------------------------------------------


@pytest.fixture
def web_server() -> Iterator[str]:
    """A web server that answers with the status in the path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path[1:]))
            if self.path == "/101":
                self.send_header("Connection", "Upgrade")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"ws://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_websocket_that_a_web_server_refuses(web_server: str) -> None:
    for status in (101, 200, 401, 403, 404, 407, 426, 502, 503):
        found = see(f"{web_server}/{status}").diagnosis
        assert f"refuses the WebSocket: HTTP/1.0 {status}" in found.says
        assert found.fix


# -- TLS ------------------------------------------------------------------------------------------


def test_certificates_that_the_broker_does_not_accept(
    start_mosquitto: StartMosquitto, certificates: Certificates, tmp_path: Path
) -> None:
    # TLS 1.3 reports it after the handshake: when the client writes CONNECT, or reads the answer.
    mosquitto = start_mosquitto(certificates=certificates, client_certificates=True)
    other = Certificates.make(tmp_path / "other")
    foreign = {"MQTT_TLS_CERT": other.client_cert, "MQTT_TLS_KEY": other.client_key}
    for settings, says in (
        ({}, "requires a client certificate"),
        (foreign, "refuses the client certificate"),
        ({**foreign, "MQTT_TLS_KEY": certificates.client_key}, "is not the key of"),
    ):
        found = see(mosquitto.tls_url, MQTT_TLS_CA=certificates.ca, **settings).diagnosis
        # Where the broker's reset overtakes its alert, only the end of the connection is seen.
        assert says in found.says or "instead of answering CONNECT" in found.says
        assert found.fix
        assert "certificate" in found.fix


def test_a_certificate_of_another_host(start_mosquitto: StartMosquitto, tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path / "certificates", "another.ship")
    mosquitto = start_mosquitto(certificates=certificates)
    found = see(mosquitto.tls_url, MQTT_TLS_CA=certificates.ca).diagnosis
    assert "Hostname mismatch" in found.says
    assert found.fix
    assert "issue one for localhost" in found.fix
