"""The tests' own brokers: they keep their port, leave nothing behind, and don't touch the system's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.aedes import Aedes
from tests.support.amqtt import Amqtt
from tests.support.broker import Broker
from tests.support.ejabberd import Ejabberd
from tests.support.mosquitto import Mosquitto
from tests.support.nats import Nats
from tests.support.rabbitmq import RabbitMQ
from tests.support.waiting import eventually
from tools.ports import answers

pytestmark = pytest.mark.slow

KINDS = (Mosquitto, RabbitMQ, Nats, Ejabberd, Amqtt, Aedes)


def processes_in(directory: Path) -> list[str]:
    """The programs that work in a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")).is_relative_to(directory):
                found.append((process / "comm").read_text().strip())
        except OSError:
            continue  # it has ended
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.NAME)
def test_a_broker_keeps_its_port_and_leaves_nothing_behind(
    kind: type[Broker], start_broker: Callable[..., Any]
) -> None:
    broker = start_broker(kind)
    ports = [*broker.listening()]
    assert processes_in(broker.directory)
    broker.publish("a/b", "1", "-q", "1")
    broker.stop()
    assert not any(map(answers, ports))
    broker.start()
    assert ports == [*broker.listening()]
    broker.publish("a/b", "2", "-q", "1")
    broker.close()
    eventually(lambda: not processes_in(broker.directory), 5, message="nothing is left")
    assert not any(map(answers, ports))
