"""Test support for applications that use `ReliableSync`: a broker in memory, its messages, and a settable clock.

::

    @pytest.fixture
    def broker(app):
        with memory_broker(app) as broker:
            yield broker

    def test_a_valve_is_published(app, broker):
        with app.app_context():
            db.session.add(Valve(is_open=True))
            db.session.commit()
        deliver(app)
        (message,) = published(app, "valves")
        assert message.payload["operation"] == "create"
        assert message.payload["data"]["isOpen"] is True

It needs no network, no waiting, and no threads other than those that a test starts. An application with
`TESTING=True` starts nothing by itself: `deliver` relays in the test's own thread until nothing waits, `relaying`
in a separate thread, as in production.
"""

from __future__ import annotations

from arus.mqtt.memory_broker import MemoryBroker
from arus.mqtt.memory_sessions import Published

from .clock import Clock, set_clock
from .delivery import deliver, memory_broker, published, relaying

__all__ = [
    "Clock",
    "MemoryBroker",
    "Published",
    "deliver",
    "memory_broker",
    "published",
    "relaying",
    "set_clock",
]
