"""A follower's applier, without a connection to a broker."""

from __future__ import annotations

from sqlalchemy import Connection

from arus.follower.applier import Applier
from arus.follower.audits.ledger import Ledger
from arus.follower.messages import Reader
from arus.follower.rows import Copy
from arus.follower.store import Store
from arus.registry import Registry


def new_applier(connection: Connection, registry: Registry) -> Applier:
    """Return the applier of a follower that begins from the database alone; the topics begin with `p`."""
    copies = {one.entity: Copy(one) for one in registry}
    followed = {copy.followed.topic: copy.followed for copy in copies.values()}
    store = Store(connection, followed.values())
    reader, ledger = Reader("p", followed), Ledger(connection)
    return Applier(connection, store, copies, reader, "shore", ledger)
