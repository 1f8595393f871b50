"""Messages as a ship sends them, for what is trained on them."""

from __future__ import annotations

import random
import uuid
from functools import cache

import orjson

from arus.protocol.frames import Dictionary, train

_REASONS = (
    "Lubricating oil leaks at the flange",
    "Filter differential pressure is high",
    "Overhaul by running hours",
    "Vibration above the limit",
)


def row(source: random.Random, number: int) -> dict[str, object]:
    """A work order."""
    time = f"2026-11-{source.randint(10, 28)}T{source.randint(10, 23)}:{source.randint(10, 59)}:07.250Z"
    return {
        "id": str(uuid.UUID(int=source.getrandbits(128))),
        "version": source.randint(1, 9),
        "createdAt": time,
        "updatedAt": time,
        "equipmentId": f"engine-{source.randint(1, 40)}",
        "reason": source.choice(_REASONS),
        "woNumber": f"WO-2026-{number:06d}",
        "status": source.choice(("open", "in_progress", "completed")),
        "priority": source.randint(1, 5),
        "estimatedHours": source.randint(1, 20) / 2,
        "actualHours": None,
        "plannedStartDate": time,
        "plannedEndDate": None,
    }


def messages(count: int, *, seed: int = 1) -> list[bytes]:
    """Changes of work orders."""
    source = random.Random(seed)
    return [
        orjson.dumps(
            {
                "type": "data_change", "entity": "work_orders", "operation": "update",
                "data": row(source, number), "timestamp": "2026-11-22T08:00:00.000Z",
                "messageId": f"1795334400000_{source.getrandbits(40):010x}",
                "vesselId": "ship-1", "epoch": "8f7c2f6e-3f53-4a32-8a51-1b0f5f2f9a10",
                "seq": number + 1, "previousSeq": number, "version": 3,
            }
        )
        for number in range(count)
    ]  # fmt: skip


@cache
def dictionary(seed: int = 1) -> Dictionary:
    """A dictionary that was trained on such messages."""
    trained = train(messages(200, seed=seed))
    assert trained is not None
    return trained
