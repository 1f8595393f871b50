"""Puts the parts of a follower's loop together: on one connection to the database, for all vessels or for some."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

from arus.mqtt.client import Session

from .admission import Admission
from .applier import Applier
from .audits.audits import Audits
from .audits.ledger import Ledger
from .audits.sharing import Shared
from .dictionaries import VesselDictionaries
from .link import client_id_of
from .loop import RECEIVE_MAXIMUM, Loop
from .messages import Reader
from .parts import Common, Parts
from .proposals import Outbox
from .sql.build import Some
from .store import Store


def make_parts(
    common: Common,
    connection: Connection,
    *,
    vessels: Some = None,
    partition: int | None = None,
    shared: Shared | None = None,
) -> Parts:
    """Return the parts of a loop.

    :param vessels: ids of the vessels that it follows; None for those of `FOLLOW_VESSELS`.
    :param partition: the number of the partition that these are.
    :param shared: what its audits share with those of other partitions.
    """
    settings, copies = common.settings, common.copies
    store = Store(connection, common.followed.values(), vessels)
    ledger = Ledger(connection)
    admitted = settings.follow_vessels if vessels is None else vessels
    applier = Applier(
        connection,
        store,
        copies,
        Reader(settings.topic_prefix, common.followed),
        common.name,
        ledger,
        Admission(settings.topics, admitted),
        partition=partition,
    )
    audits = Audits(
        common.url, connection, ledger, copies, common.context, store.refusals, vessels, shared
    )
    dictionaries = VesselDictionaries(connection, vessels)
    return Parts(applier, audits, Outbox(connection, copies), dictionaries)


def make_loop(
    common: Common, connection: Connection, *, stopping: Callable[[], bool], waker: int
) -> Loop:
    """Return the loop that follows all vessels.

    :param waker: a descriptor that becomes readable when `stopping` has changed.
    """
    session = Session(
        common.settings.of_all(), client_id_of(common.name), receive_maximum=RECEIVE_MAXIMUM
    )
    parts = make_parts(common, connection)
    return Loop(common, parts, session, stopping=stopping, waker=waker)
