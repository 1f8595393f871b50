"""Replaces the network by the memory broker, and relays."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask

from arus import runtime
from arus.errors import ArusError, StandbyEndedError
from arus.mqtt.memory_broker import MemoryBroker
from arus.mqtt.memory_sessions import Published
from arus.protocol.entries import ChangeState
from arus.protocol.topics import matches
from arus.runtime import Runtime

_KEY = "arus.testing"


@contextmanager
def memory_broker(app: Flask, broker: MemoryBroker | None = None) -> Iterator[MemoryBroker]:
    """Replace the network by a broker in memory; at the end of the block the relay is stopped.

    :param broker: a broker to share between applications; a new one when not given.
    """
    bound = runtime.of(app)
    broker = broker or MemoryBroker()
    before, bound.open_session = bound.open_session, broker.open_session
    app.extensions[_KEY] = broker
    try:
        yield broker
    finally:
        bound.stop()
        bound.open_session = before
        del app.extensions[_KEY]


def published(app: Flask, topic_filter: str | None = None) -> list[Published]:
    """Return the messages that the broker has received from an application, in order.

    :param topic_filter: topics under `MQTT_TOPIC_PREFIX`, such as `work_orders`, `catchup/#`, `system/status`;
        the topics of the changes when not given.
    """
    return _published(runtime.of(app), _broker_of(app), topic_filter)


def deliver(app: Flask, *, timeout: float = 10.0) -> list[Published]:
    """Relay in this thread until nothing waits; return the changes that were published.

    It numbers and publishes what was committed, sends the requested catch-ups, and waits for the handlers of inbound
    messages. It also returns if the broker can't be reached or holds back its acknowledgements, or if
    the rest waits for the next day's data budget. The relay connects
    anew, as after a restart, and disconnects at the end.

    :raises TimeoutError: something still waits after `timeout` seconds.
    :raises ArusError: the application is not a vessel (`LOCAL_MODE`), or another thread or process relays for it.
    """
    bound, broker = runtime.of(app), _broker_of(app)
    if not bound.settings.local_mode:
        raise ArusError("LOCAL_MODE is false: this application publishes nothing")
    deadline = time.monotonic() + timeout
    before, endings = len(_published(bound, broker, None)), broker.endings

    def done() -> bool:
        if not broker.is_reached:
            return broker.endings > endings
        waiting = _waiting(bound, broker) if broker.is_served else "not connected"
        if waiting is None:
            return True
        if time.monotonic() < deadline:
            return False
        raise TimeoutError(f"not delivered within {timeout:g} s: {waiting}")

    def gives_up(seconds: float) -> bool:
        return threading.Event().wait(seconds) or time.monotonic() >= deadline

    try:
        bound.new_leadership().lead(gives_up, done)
    except StandbyEndedError as error:
        raise ArusError("another thread or process relays for this database already") from error
    return _published(bound, broker, None)[before:]


@contextmanager
def relaying(app: Flask) -> Iterator[MemoryBroker]:
    """Relay in a separate thread during the block, as in production; wait for it with `MemoryBroker.wait_for`."""
    bound, broker = runtime.of(app), _broker_of(app)
    bound.start()
    try:
        yield broker
    finally:
        bound.stop()


def _broker_of(app: Flask) -> MemoryBroker:
    broker = app.extensions.get(_KEY)
    if not isinstance(broker, MemoryBroker):
        raise ArusError("the application has no memory broker: use arus.testing.memory_broker(app)")
    return broker


def _published(bound: Runtime, broker: MemoryBroker, topic_filter: str | None) -> list[Published]:
    wanted = [topic_filter] if topic_filter else {one.topic for one in bound.registry}
    vessel_id = bound.status().vessel_id
    tree = bound.settings.topics
    prefix = tree.any_vessel if vessel_id is None else tree.prefix_of(vessel_id)
    filters = [f"{prefix}/{one}" for one in wanted]
    return [
        message
        for message in broker.messages
        if message.client_id and any(matches(name, message.topic) for name in filters)
    ]


def _waiting(bound: Runtime, broker: MemoryBroker) -> str | None:
    """Describe something that still waits; None if nothing does."""
    if broker.with_handlers:
        return f"{broker.with_handlers} messages are with their handlers"
    states = [ChangeState.PENDING]
    if not broker.holds_acknowledgements:
        states.append(ChangeState.IN_FLIGHT)
    if bound.status().waits_for_budget:
        return None
    if found := bound.changes.page(states=states, limit=1).items:
        return f"change {found[0].message_id} is {found[0].state}"
    if broker.holds_acknowledgements or bound.status().waits_for_budget:
        return None
    running = [one for one in bound.catchups.recent() if not one.finished]
    return f"catch-up {running[0].catchup_id} is {running[0].status}" if running else None
