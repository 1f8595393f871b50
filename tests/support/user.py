"""A user of a broker: logs in by TLS, and is told what the broker denies (MQTT 5)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho

from tests.support.lifecycle import Started
from tests.support.waiting import eventually

#: The reason codes of a PUBACK that takes a message: success, and no subscriber.
TAKEN = {0x00, 0x10}
#: The broker denies it (MQTT 5, 3.4.2.1).
NOT_AUTHORIZED = 0x87


class BrokerUser(Started):
    """One connection of a user, whose password is the name."""

    def __init__(self, port: int, ca: Path, name: str, client_id: str | None = None) -> None:
        self._port = port
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id or f"user-{name}",
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )
        self._client.username_pw_set(name, name)
        self._client.tls_set(ca_certs=str(ca))
        self._client.on_connect = self._on_connect
        self._client.on_publish = self._on_answer
        self._client.on_subscribe = self._on_answer
        self._client.on_message = self._on_message
        #: The reason code of the CONNACK, once it has come.
        self.answer: int | None = None
        #: What was received: topics and payloads.
        self.received: list[tuple[str, bytes]] = []
        self._answers: dict[int, int] = {}
        self._answered = threading.Condition()

    def publish(self, topic: str, payload: bytes = b"{}") -> int:
        """Publish at QoS 1; return the broker's reason code."""
        return self._answer_to(lambda: self._client.publish(topic, payload, qos=1).mid)

    def subscribe(self, topic_filter: str) -> int:
        """Subscribe; return the broker's reason code."""

        def ask() -> int:
            packet_id = self._client.subscribe(topic_filter, 1)[1]
            assert packet_id is not None
            return packet_id

        return self._answer_to(ask)

    def start(self) -> Self:
        self._client.connect("localhost", self._port)
        self._client.loop_start()
        eventually(lambda: self.answer is not None, message="the broker answers CONNECT")
        return self

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _answer_to(self, ask: Callable[[], int]) -> int:
        with self._answered:
            packet_id = ask()
            assert self._answered.wait_for(lambda: packet_id in self._answers, 10), "no answer"
            return self._answers.pop(packet_id)

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _: Any) -> None:
        self.answer = reason.value

    def _on_answer(self, _client: Any, _data: Any, mid: int, reason: Any, _: Any) -> None:
        with self._answered:
            self._answers[mid] = (reason[0] if isinstance(reason, list) else reason).value
            self._answered.notify_all()

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self.received.append((message.topic, bytes(message.payload)))
