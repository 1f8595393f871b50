"""The broker of a drill: in memory, or a given one. It is away at first, and nothing stays on it."""

from __future__ import annotations

from typing import Any, Protocol

from msgspec.structs import replace

from arus.errors import ConnectError
from arus.mqtt.client import Session
from arus.mqtt.memory_broker import MemoryBroker
from arus.protocol.entries import new_message_id
from arus.protocol.times import now_ms
from arus.settings import Broker, Settings

#: Below it a drill publishes on a given broker.
ROOT = "arus-drill"


class DrillBroker(Protocol):
    """What a drill needs of a broker."""

    def open_session(self, settings: Settings, client_id: str) -> Session:
        """Return a session, not connected yet."""

    def go_online(self) -> None:
        """Accept connections from now on."""

    def applied(self, settings: Settings) -> Settings:
        """Return the settings with which the broker is used."""

    @property
    def published(self) -> int:
        """Messages that were published."""


class Memory(MemoryBroker):
    """A broker in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.go_offline()

    def applied(self, settings: Settings) -> Settings:
        """Return the settings as they are."""
        return settings

    @property
    def published(self) -> int:
        """Messages that were published."""
        return len(self.messages)


class Given:
    """A real broker, to which a drill publishes under topics and with a session of its own.

    Nothing is retained there, and the session ends with the connection.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._name = f"{ROOT}-{new_message_id(now_ms())[-12:]}"
        self.is_online = False
        self.published = 0

    def open_session(self, settings: Settings, client_id: str) -> Session:
        """Return a session, not connected yet."""
        return _Given(self, settings, client_id)

    def go_online(self) -> None:
        """Let sessions connect from now on."""
        self.is_online = True

    def applied(self, settings: Settings) -> Settings:
        """Return the settings with this broker, and with topics and a client id of its own."""
        return replace(
            settings,
            broker=self._broker,
            username=self._broker.username or settings.username,
            password=self._broker.password or settings.password,
            client_id=self._name,
            topic_prefix=f"{ROOT}/{self._name}",
        )


class _Given(Session):
    def __init__(self, broker: Given, settings: Settings, client_id: str) -> None:
        super().__init__(settings, client_id, lasting=False)
        self._given = broker

    def connect(self, *, clean_start: bool, **_will: Any) -> None:
        if not self._given.is_online:
            raise ConnectError("the drill has not come to the end of the outage")
        super().connect(clean_start=clean_start)  # without a will, which would be retained

    def publish_entry(self, topic: bytes, payload: bytes, **options: Any) -> None:
        self._given.published += 1
        super().publish_entry(topic, payload, **{**options, "retain": False})
