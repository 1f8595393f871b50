"""Prints the messages that a subscriber receives, one line each."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import uuid4

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from arus.errors import RefusedMessageError
from arus.protocol.frames import Dictionary, decompress, is_frame
from arus.protocol.topics import DICTIONARY
from arus.settings import Settings

#: The most descriptive fields of a row, the best first.
_TELLING = ("woNumber", "name", "message", "reason", "maintenanceType", "description", "status")


class Listener:
    """A subscriber independent of the app: the messages it shows have passed through the broker."""

    def __init__(self, settings: Settings, show: Callable[[str], None]) -> None:
        self._settings = settings
        self._show = show
        #: the monotonic time of the last message, and the number of messages since the last query
        self.last_at = 0.0
        self.count = 0
        self._dictionaries: dict[int, Dictionary] = {}
        self._client = self._make_client()

    def start(self) -> None:
        """Connect in the background, and reconnect when the connection is lost."""
        broker = self._settings.broker
        self._client.connect_async(broker.host, broker.port, keepalive=self._settings.keepalive)
        self._client.loop_start()

    def stop(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

    def _make_client(self) -> mqtt.Client:
        settings = self._settings
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"arus_terminal_{uuid4().hex[:8]}",
            protocol=mqtt.MQTTv311,  # the version that every broker supports
            transport="websockets" if settings.broker.websockets else "tcp",
        )
        if settings.broker.websockets:
            client.ws_set_options(path=settings.broker.path)
        if settings.username:
            client.username_pw_set(settings.username, settings.password)
        if settings.broker.tls:
            client.tls_set_context(_tls_context(settings))
        client.reconnect_delay_set(1, 5)
        client.on_connect = self._subscribe
        client.on_message = self._print
        return client

    def _subscribe(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(f"{self._settings.topics.any_vessel}/#", qos=2)

    def _print(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        self.count += 1
        self.last_at = time.monotonic()
        payload = self._plain(message.topic, bytes(message.payload))
        text = describe(message.topic, payload, retained=message.retain)
        self._show(f"{datetime.now().astimezone():%H:%M:%S}  {text}")

    def _plain(self, topic: str, payload: bytes) -> bytes:
        """Return a payload decompressed, if it is compressed and its dictionary has arrived."""
        try:
            if f"/{DICTIONARY}/" in topic and payload:
                dictionary = Dictionary(payload)
                self._dictionaries[dictionary.id] = dictionary
            return decompress(payload, self._dictionaries.get) if is_frame(payload) else payload
        except RefusedMessageError:
            return payload  # shown as so many bytes


def describe(topic: str, payload: bytes, *, retained: bool = False) -> str:
    """Describe a message in one line: topic, operation and row, number, a few words."""
    try:
        content = json.loads(payload)
    except ValueError:
        content = None
    if isinstance(content, dict):
        words = _words(content)
    elif payload:
        words = [f"{len(payload)} bytes"]
    else:
        words = ["empty: the retained message is cleared"]
    if retained:
        words.append("(retained)")
    line = "  ".join([topic, *words])
    # text from the network must not control the terminal
    return "".join(character if character.isprintable() else "\N{MIDDLE DOT}" for character in line)


def _words(content: dict[str, Any]) -> list[str]:
    row = content.get("data")
    row = row if isinstance(row, dict) else {}
    what = content.get("operation") or content.get("type") or content.get("status") or "message"
    words = [f"{what} {content.get('entity') or ''}".rstrip()]
    if content.get("seq") is not None:
        words.append(f"#{content['seq']}")
    told = [str(row[name]) for name in _TELLING if row.get(name)]
    text = " ".join(told[:2])
    if text:
        words.append(text if len(text) <= 70 else f"{text[:69]}\N{HORIZONTAL ELLIPSIS}")
    return words


def _tls_context(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.tls_ca)
    if settings.tls_cert:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    if not settings.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
