"""The brokers that the main job is run with, and what each of them keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.aedes import Aedes
from tests.support.amqtt import Amqtt
from tests.support.broker import Broker
from tests.support.ejabberd import Ejabberd
from tests.support.mosquitto import Mosquitto
from tests.support.nats import Nats
from tests.support.rabbitmq import RabbitMQ


@dataclass(frozen=True)
class Keeps:
    """What a broker can keep; the rest is the vessel's and the follower's task."""

    #: The version of MQTT that a vessel with `auto` finds.
    protocol: str = "3.1.1"
    #: Attempts until the first connection, at most.
    attempts: int = 3
    #: QoS 2: a subscriber sees each alert once.
    alerts_once: bool = True
    #: What is queued for a subscriber that is away outlives the broker's restart; None: mostly.
    queue: bool | None = True
    #: Retained messages outlive the broker's restart.
    retained: bool = True
    #: A new subscription with a wildcard gets retained messages.
    retained_for_wildcards: bool = True


@dataclass(frozen=True)
class Case:
    """A broker with one configuration."""

    name: str
    make: Callable[[Path], Broker]
    keeps: Keeps
    #: Further settings of the vessel and the follower.
    settings: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


_RABBITMQ = Keeps(alerts_once=False, retained_for_wildcards=False)
# After a restart NATS has kept back a session's whole queue for as long as the test waited, some once in ten runs.
_NATS = Keeps(alerts_once=False, queue=None)
_MEMORY = Keeps(queue=False, retained=False)

CASES = (
    Case(
        "Mosquitto 2.0, as shipped",
        lambda directory: Mosquitto(directory, as_shipped=True),
        Keeps(protocol="5", attempts=1),
    ),
    Case(
        "Mosquitto 2.0, as shipped, MQTT_PROTOCOL=3.1.1",
        lambda directory: Mosquitto(directory, as_shipped=True),
        Keeps(attempts=1),
        {"MQTT_PROTOCOL": "3.1.1"},
    ),
    Case(
        "Mosquitto 2.0, deploy/mosquitto",
        lambda directory: Mosquitto(directory, deployed=True),
        Keeps(protocol="5", attempts=1),
    ),
    Case(
        "RabbitMQ 3.10, as shipped",
        lambda directory: RabbitMQ(directory, as_shipped=True),
        _RABBITMQ,
    ),
    Case("RabbitMQ 3.10, deploy/rabbitmq", RabbitMQ, _RABBITMQ),
    Case("NATS 2.9, as shipped", lambda directory: Nats(directory, as_shipped=True), _NATS),
    Case("NATS 2.9, deploy/nats", Nats, _NATS),
    Case("ejabberd 23.01", Ejabberd, Keeps(protocol="5", attempts=1, queue=False)),
    Case("aedes 0.51", Aedes, _MEMORY),
    Case("amqtt 0.12 (make run without Mosquitto)", Amqtt, _MEMORY),
)
