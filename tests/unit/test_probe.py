"""Probes leave nothing behind that a subscriber to everything could stumble over."""

from __future__ import annotations

import orjson

from arus.mqtt.handshakes import DEFAULT
from arus.mqtt.probe import PROBE_SIZE, _probe_message


def test_a_probe_is_json_of_its_own_kind_and_of_the_size_of_a_change() -> None:
    messages = [_probe_message(number) for number in range(DEFAULT)]
    assert {len(message) for message in messages} == {PROBE_SIZE}
    assert [orjson.loads(message)["number"] for message in messages] == list(range(DEFAULT))
    assert {orjson.loads(message)["type"] for message in messages} == {"probe"}
