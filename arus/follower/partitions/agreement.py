"""What the processes of a partitioned follower agree on: its name, the number of partitions, and each vessel's place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from msgspec import Struct
from sqlalchemy import Connection

from arus.database import OWNER_KEY, transaction
from arus.errors import FollowError
from arus.follower import sql
from arus.follower.link import client_id_of
from arus.logs import get_logger
from arus.outbox import sql as outbox_sql
from arus.protocol.times import now_ms

from .names import link_of, session_of
from .placement import partition_of

logger = get_logger(__name__)


class Partitioning(Struct, frozen=True):
    """How a follower's vessels are divided."""

    #: The follower's name.
    name: str
    partitions: int
    #: Raised when vessels come or go.
    version: int = 0


class Place(Struct, frozen=True):
    """Where a vessel is."""

    number: int
    #: The first status that was received of it; None if that is not known.
    status: str | None


def read_partitioning(connection: Connection) -> Partitioning | None:
    """Return how the vessels are divided; None if they are not."""
    row = connection.execute(sql.partitions.PARTITIONING).one_or_none()
    return None if row is None else Partitioning(row.name, row.partitions, row.version)


def read_places(connection: Connection) -> dict[str, Place]:
    """Return the place of each vessel."""
    return {
        row.vessel_id: Place(row.number, row.status)
        for row in connection.execute(sql.partitions.PLACES)
    }


def place(connection: Connection, vessels: Mapping[str, str | None], partitions: int) -> None:
    """Give new vessels their places, in the caller's transaction.

    :param vessels: the first status of each, None if that is not known.
    """
    if not vessels:
        return
    now = now_ms()
    connection.execute(
        sql.partitions.PLACE,
        [
            {
                "vessel_id": vessel_id,
                "number": partition_of(vessel_id, partitions),
                "status": status,
                "placed_at": now,
            }
            for vessel_id, status in sorted(vessels.items())
        ],
    )
    connection.execute(sql.partitions.CHANGED)


def remove(connection: Connection, vessel_ids: Collection[str]) -> None:
    """Take vessels out of their partitions, in the caller's transaction."""
    if vessel_ids:
        connection.execute(sql.partitions.REMOVE, {"vessel_ids": list(vessel_ids)})
        connection.execute(sql.partitions.CHANGED)


def agree(
    connection: Connection,
    wanted: Partitioning,
    named: Collection[str] | None,
    others: Callable[[], int],
    present: Callable[[], None],
) -> None:
    """Agree with the other processes on how the vessels are divided; one process at a time does so.

    The first process decides, and so does one that finds no other: then the vessels of partitions that do not exist
    any more move to other ones, and all others stay where they are.

    :param named: ids of the vessels of `FOLLOW_VESSELS`; None for every vessel.
    :param others: returns how many other processes are running.
    :param present: shows the presence of this process.
    :raises FollowError: processes are running that divide the vessels in another way.
    """
    with transaction(connection):
        connection.execute(outbox_sql.database.LOCK_IN_TRANSACTION, {"key": OWNER_KEY + 1})
        before = read_partitioning(connection)
        if before is None:
            _begin(connection, wanted)
        elif (before.name, before.partitions) != (wanted.name, wanted.partitions):
            if others():
                raise FollowError(
                    f"{before.name} is followed in {before.partitions} partitions by other processes: use the same"
                    " name and number, or stop all of them first"
                )
            _change(connection, before, wanted)
        unplaced = connection.execute(sql.partitions.UNPLACED).scalars().all()
        known = dict.fromkeys((*unplaced, *(named or ())))
        placed = read_places(connection)
        place(connection, {one: None for one in known if one not in placed}, wanted.partitions)
        present()


def leave(connection: Connection) -> bool:
    """Give up the partitions, for a follower that does without; return whether there were any.

    The sessions of the partitions are to be ended. No process may be following.
    """
    with transaction(connection):
        before = read_partitioning(connection)
        if before is None:
            return False
        _stop_using(connection, before, range(before.partitions))
        connection.execute(sql.partitions.FORGET_TAKEN, {"partitions": 0})
        connection.execute(sql.partitions.FORGET_PLACES)
        connection.execute(sql.partitions.FORGET_PARTITIONING)
        connection.execute(
            sql.partitions.REMOVE_UNUSED, {"client_ids": [client_id_of(before.name)]}
        )
    logger.info(
        "[MQTT Reliable Sync] following without partitions: what waits in the sessions of %d partitions is requested"
        " from the vessels again",
        before.partitions,
    )
    return True


def _begin(connection: Connection, wanted: Partitioning) -> None:
    """Divide the vessels of a follower that has done without partitions, or of a new one."""
    if connection.execute(sql.partitions.LINK, {"name": wanted.name}).first() is not None:
        connection.execute(sql.partitions.ADD_UNUSED, {"client_id": client_id_of(wanted.name)})
        connection.execute(sql.partitions.FORGET_LINKS, {"names": [wanted.name]})
    _save(connection, wanted)


def _change(connection: Connection, before: Partitioning, wanted: Partitioning) -> None:
    """Change the name or the number of partitions."""
    if before.name != wanted.name:
        gone: Iterable[int] = range(before.partitions)
    else:
        gone = range(wanted.partitions, before.partitions)
    _stop_using(connection, before, gone)
    connection.execute(sql.partitions.FORGET_TAKEN, {"partitions": wanted.partitions})
    moved = [
        {"vessel_id": vessel_id, "number": partition_of(vessel_id, wanted.partitions)}
        for vessel_id, its in read_places(connection).items()
        if its.number >= wanted.partitions
    ]
    if moved:
        connection.execute(sql.partitions.MOVE, moved)
    _save(connection, wanted, before.version + 1)
    logger.warning(
        "[MQTT Reliable Sync] %s is followed in %d partitions, no more in %d: %d vessels move to another one",
        wanted.name,
        wanted.partitions,
        before.partitions,
        len(moved),
    )


def _save(connection: Connection, wanted: Partitioning, version: int = 1) -> None:
    saved = {"id": 1, "name": wanted.name, "partitions": wanted.partitions, "version": version}
    connection.execute(sql.partitions.SAVE_PARTITIONING, saved)
    used = [session_of(wanted.name, number) for number in range(wanted.partitions)]
    connection.execute(sql.partitions.REMOVE_UNUSED, {"client_ids": used})


def _stop_using(connection: Connection, before: Partitioning, numbers: Iterable[int]) -> None:
    """Note that the sessions of partitions are used no more."""
    numbers = list(numbers)
    if not numbers:
        return
    ids = [{"client_id": session_of(before.name, number)} for number in numbers]
    connection.execute(sql.partitions.ADD_UNUSED, ids)
    links = [link_of(before.name, number) for number in numbers]
    connection.execute(sql.partitions.FORGET_LINKS, {"names": links})
