"""Handing a vessel's rows over to another vessel: the one has a new name, or has the other's rows aboard.

Only the records of the rows change. The next audit of the receiver compares them with what it has aboard, and repairs
what differs: rows are deleted only after the receiver's digest has shown that it does not have them.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct
from sqlalchemy import Connection

from arus.database import transaction
from arus.errors import FollowError
from arus.protocol.times import now_ms

from . import sql


class HandOver(Struct, frozen=True):
    """What was handed over."""

    giver: str
    receiver: str
    #: Number of rows by entity.
    rows: dict[str, int]
    #: The giver has no rows any more and is not followed until it is online again.
    retired: bool


def hand_over(
    connection: Connection,
    giver: str,
    receiver: str,
    entity: str | None,
    entities: Collection[str],
) -> HandOver:
    """Hand the rows of one vessel over to another one, in one transaction.

    A vessel that is offline hands over everything (unless an entity is named) and is forgotten. One that is online
    keeps the rows that the receiver has never sent, or has deleted.

    :param connection: of `arus.database.open_engine`; no follower may be running.
    :param entity: only the rows of this one.
    :param entities: those that are followed.
    :raises FollowError: a vessel or the entity is not known.
    :raises LogUnavailableError: the database refused; nothing was changed.
    """
    if entity is not None and entity not in entities:
        raise FollowError(
            f"there is no entity {entity!r}: use one of {', '.join(sorted(entities))}"
        )
    if giver == receiver:
        raise FollowError("a vessel can't hand its rows over to itself")
    with transaction(connection):
        online = _online(connection, giver)
        _online(connection, receiver)
        whole = entity is None and not online
        keys = {"giver": giver, "receiver": receiver}
        there = connection.execute(sql.hand_over.ENTITIES, keys).scalars().all()
        chosen = [one for one in there if entity in {None, one}]
        rows = {one: _entity(connection, {**keys, "entity": one}, whole=whole) for one in chosen}
        connection.execute(sql.hand_over.COMPARE_AGAIN, keys)
        if whole:
            _forget(connection, giver, receiver)
    return HandOver(giver, receiver, {one: count for one, count in rows.items() if count}, whole)


def _online(connection: Connection, vessel_id: str) -> bool:
    vessel = connection.execute(sql.hand_over.VESSEL, {"vessel_id": vessel_id}).one_or_none()
    if vessel is None:
        raise FollowError(f"no vessel {vessel_id[:64]!r} is followed")
    return bool(vessel.online)


def _entity(connection: Connection, keys: dict[str, str], *, whole: bool) -> int:
    """Hand over the rows of one entity; return their number."""
    if whole:
        connection.execute(sql.hand_over.YIELD, keys)
    before: int = connection.execute(sql.hand_over.COUNT, keys).scalar_one()
    connection.execute(sql.hand_over.TAKE, keys)
    connection.execute(sql.hand_over.LEAVE, keys)
    if whole:
        connection.execute(sql.hand_over.GIVE, keys)
    connection.execute(sql.hand_over.POINT, keys)
    connection.execute(sql.hand_over.PROPOSALS, keys)
    return int(connection.execute(sql.hand_over.COUNT, keys).scalar_one()) - before


def _forget(connection: Connection, giver: str, receiver: str) -> None:
    key = {"giver": giver, "receiver": receiver}
    for statement in (
        sql.hand_over.ALL_PROPOSALS,
        sql.hand_over.FORGET_ROWS,
        sql.hand_over.FORGET_CLAIMS,
        sql.hand_over.FORGET_HELD,
        sql.hand_over.FORGET_REFUSED,
        sql.hand_over.FORGET_COMPARED,
        sql.hand_over.FORGET_POSITIONS,
        sql.hand_over.FORGET_VESSEL,
    ):
        connection.execute(statement, key)
    told = {"vessel_id": giver, "receiver": receiver, "at": now_ms()}
    connection.execute(sql.hand_over.HANDED_OVER, told)
