"""What wakes the relay: a notification, and whatever connection its session has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from arus.errors import ConnectionLostError
from arus.mqtt.client import Session
from arus.mqtt.memory_sessions import MemorySession, SessionBroker
from arus.outbox.notifier import NotificationListener, Notifier
from arus.relay.waiting import Ready, Waiting
from arus.settings import load

SETTINGS = load({})
NOTHING = Ready(is_notified=False, is_readable=False)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[NotificationListener]:
    with closing(NotificationListener(tmp_path / "private" / "bell")) as made:
        yield made


@pytest.fixture
def notifier(tmp_path: Path) -> Iterator[Notifier]:
    with closing(Notifier(tmp_path / "private" / "bell")) as made:
        yield made


def test_a_notification_is_no_reason_to_read_the_socket(
    listener: NotificationListener, notifier: Notifier
) -> None:
    session = MemorySession(SessionBroker(), SETTINGS, "ship")
    waiting = Waiting(listener, session)
    assert waiting.wait(0) == NOTHING
    session.connect(clean_start=True)
    assert waiting.wait(10) == Ready(is_notified=False, is_readable=True)
    assert len(session.receive()) == 1
    notifier.notify()
    notifier.notify()
    assert waiting.wait(10) == Ready(is_notified=True, is_readable=False)
    assert waiting.wait(0) == NOTHING
    session.close()


def test_each_connection_wakes_it_also_one_with_the_descriptor_of_the_last(
    listener: NotificationListener,
) -> None:
    session = MemorySession(SessionBroker(), SETTINGS, "ship")
    waiting = Waiting(listener, session)
    for _ in range(3):
        session.connect(clean_start=True)
        assert waiting.wait(10).is_readable
        session.receive()
        assert waiting.wait(0) == NOTHING
        session.close()
        assert waiting.wait(0) == NOTHING


def test_a_session_that_has_ended_is_read_although_nothing_arrives(
    listener: NotificationListener,
) -> None:
    session = Session(SETTINGS, "ship")
    waiting = Waiting(listener, session)
    assert waiting.wait(0) == NOTHING
    # As `receive` leaves it where a malformed packet follows an acknowledgement.
    session._ended = ConnectionLostError("a malformed packet")
    assert waiting.wait(0) == Ready(is_notified=False, is_readable=True)
