"""What an idle ship sends in a day: keepalive and statuses."""

from __future__ import annotations

from msgspec import UNSET

from arus.mqtt.aliases import TopicAliases
from arus.mqtt.packets import PINGREQ_PACKET
from arus.protocol.encoding import encode
from arus.protocol.messages import Status
from arus.protocol.topics import STATUS
from arus.relay.status_reports import PRESENCE
from arus.settings import SETTINGS, load

DAY = 86_400
TOPICS = ("alerts", "crew", "equipment", "maintenance", "work_orders")


def test_an_idle_ship_sends_at_most_30_kb_a_day() -> None:
    keepalive = load({}).keepalive
    assert keepalive == 60
    status = encode(
        Status(
            status="online",
            vessel_id="imo-9321483",
            timestamp="2026-11-22T08:00:00.000Z",
            generation=12,
            epoch="8f7c2f6e-3f53-4a32-8a51-1b0f5f2f9a10",
            seq=52_351,
            topics=dict.fromkeys(TOPICS, 52_351),
            pending=0,
            repairs=UNSET,
            complete=UNSET,  # after a week the log begins later than the tables
        )
    )
    aliases, sizes = TopicAliases(10), []
    for packet_id in range(1, 5):
        topic = f"{SETTINGS['MQTT_TOPIC_PREFIX'].default}/{STATUS}".encode()
        packet = aliases.encode_publish(
            topic, status, packet_id=packet_id, qos=1, retain=True, dup=False, v5=True
        )
        sizes.append(len(packet))
    statuses = DAY / PRESENCE
    # A status counts as a sign of life, so one ping less is due after it.
    pings = DAY / keepalive - statuses
    assert statuses * sizes[-1] + pings * len(PINGREQ_PACKET) <= 30_000
