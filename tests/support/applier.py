"""A follower's applier, without a connection to a broker."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import Connection

from arus.follower.applier import Applier
from arus.follower.audits.ledger import Ledger
from arus.follower.messages import Reader
from arus.follower.outcome import Inbound
from arus.follower.rows import Copy
from arus.follower.store import Store
from arus.protocol.times import iso, now_ms
from arus.registry import Registry


def new_applier(connection: Connection, registry: Registry) -> Applier:
    """Return the applier of a follower that begins from the database alone; the topics begin with `p`."""
    copies = {one.entity: Copy(one) for one in registry}
    followed = {copy.followed.topic: copy.followed for copy in copies.values()}
    store = Store(connection, followed.values())
    reader, ledger = Reader("p", followed), Ledger(connection)
    return Applier(connection, store, copies, reader, "shore", ledger)


def change_message(
    topic: str, operation: str, data: dict[str, Any], *, seq: int, vessel: str = "ship"
) -> Inbound:
    """Return a vessel's change of a row, as it arrives; the topic has its entity's name."""
    document = {
        "type": "data_change", "entity": topic, "operation": operation, "data": data,
        "timestamp": iso(now_ms()), "messageId": f"m-{vessel}-{seq}", "vesselId": vessel, "epoch": "e",
        "seq": seq, "previousSeq": 0, "version": data["version"],
    }  # fmt: skip
    return Inbound(f"p/{topic}", orjson.dumps(document), retain=False)
