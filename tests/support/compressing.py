"""A vessel whose changes and catch-ups are compressed."""

from __future__ import annotations

from typing import Any

import orjson

from arus.protocol.frames import Compressor, Dictionary
from tests.support.follower import ScriptedVessel
from tests.support.ship_messages import dictionary


class CompressingVessel(ScriptedVessel):
    """Publishes frames in place of JSON."""

    #: None for frames without a dictionary.
    known: Dictionary | None = dictionary()

    def publish(self, topic: str, document: Any, *, retain: bool = True) -> None:
        is_row = not topic.startswith("system/") and not isinstance(document, bytes)
        if is_row:
            document = Compressor(self.known).compress(orjson.dumps(document))
        super().publish(topic, document, retain=retain)
