"""Banners: a service that is no MQTT broker is recognised by its first bytes."""

from __future__ import annotations

import pytest

from arus.mqtt.banners import identify, is_mqtt
from arus.settings import load


def broker(scheme: str = "mqtt") -> str:
    return f"{scheme}://me:quokka@host:1234"


@pytest.mark.parametrize(
    ("first", "service", "fix"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nServer: x", "a web server answers (HTTP/1.1 400 Bad Request)", "ws://"),
        (b"<html><body>no", "a web server", "1883"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", "a web server answers", "ws://"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "a TLS server answers", "use mqtts://"),
        (b"\x15\x03\x03\x00\x02", "a TLS server answers", "use mqtts://"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "an SSH server answers (SSH-2.0-OpenSSH_9.2p1)", "1883"),
        (b"220 ship.example ESMTP Postfix\r\n", "a mail server (SMTP)", "1883"),
        (b"220 (vsFTPd 3.0.3)\r\n", "an FTP or mail server", "1883"),
        (b"+OK Dovecot ready.\r\n", "a mail server (POP3)", "1883"),
        (b"* OK [CAPABILITY IMAP4rev1]", "a mail server (IMAP)", "1883"),
        (b"AMQP\x00\x00\x09\x01", "an AMQP server", "MQTT plugin"),
        (b'INFO {"server_id":"N"}\r\n', "the NATS protocol", "mqtt block"),
        (b"<?xml version='1.0'?><stream:stream", "an XMPP server", "1883"),
        (b"-ERR unknown command\r\n", "a Redis server", "1883"),
        (b"\x4a\x00\x00\x00\x0a8.0.32\x00", "a MySQL server", "1883"),
        (b"RFB 003.008\n", "a VNC server", "1883"),
        (b"\xff\xfd\x18\xff\xfd\x20", "a Telnet server", "1883"),
        (b"\x00\x01\x02", "a service that does not speak MQTT answers", "1883"),
        (b"\x10\x1e\x00\x04MQTT\x05", "a service that does not speak MQTT answers", "1883"),
        (b"30", "a service that does not speak MQTT answers", "1883"),
    ],
)  # fmt: skip
def test_it_is_named_with_its_fix(first: bytes, service: str, fix: str) -> None:
    assert not is_mqtt(first)
    found = identify(first, load({"MQTT_BROKER_URL": broker()}).broker)
    assert found.says.startswith(f"mqtt://host:1234 is not an MQTT broker: {service}")
    assert found.fix
    assert fix in found.fix
    assert "quokka" not in str(found)


def test_a_websocket_needs_the_secure_scheme_of_websockets() -> None:
    found = identify(b"\x15\x03\x01\x00\x02", load({"MQTT_BROKER_URL": broker("ws")}).broker)
    assert found.fix == "use wss:// in MQTT_BROKER_URL"


@pytest.mark.parametrize("first", [b"\x20", b"\x20\x02\x00\x00", b"\xf0\x02"])
def test_a_brokers_answer_begins_with_connack_or_auth(first: bytes) -> None:
    assert is_mqtt(first)


def test_what_it_sends_is_shown_in_one_short_line() -> None:
    shown = identify(b"SSH-\x1b[31m\x00\x07 " + b"x" * 1000, load({}).broker).says
    assert shown.isprintable()
    assert len(shown) < 250
