"""Which process has which partition, for people and programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection

from arus.follower import sql
from arus.follower.link import FollowerLink
from arus.protocol.times import iso_or_none

from .agreement import read_partitioning
from .locks import read_holders
from .names import link_of


class PartitionStatus(Struct, frozen=True):
    """One partition."""

    number: int
    #: A process has it. If not, `host` and `pid` are those of the last one that had it.
    held: bool
    host: str | None
    pid: int | None
    #: Since when, in milliseconds since the epoch.
    since: int | None
    #: How often a process has taken it.
    taken: int
    #: Number of its vessels. Without any, it has no connection.
    vessels: int
    #: The connection of its session to the broker; None before its first attempt to connect.
    link: FollowerLink | None

    @property
    def is_connected(self) -> bool:
        """Whether its session is connected to the broker, or has no reason to be."""
        return self.held and (not self.vessels or (self.link is not None and self.link.connected))

    @property
    def reason(self) -> str | None:
        """Why it is not connected, or what the broker refuses to take from it, if that is known."""
        if not self.held or not self.vessels or self.link is None:
            return None
        return self.link.reason

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "number": self.number,
            "held": self.held,
            "host": self.host,
            "pid": self.pid,
            "since": iso_or_none(self.since),
            "taken": self.taken,
            "vessels": self.vessels,
            "connected": self.is_connected,
            "reason": self.reason,
        }


class Sharers(Struct, frozen=True):
    """The partitions of one process."""

    host: str
    pid: int
    partitions: tuple[PartitionStatus, ...]

    @property
    def numbers(self) -> str:
        """Their numbers, as in `0-15, 40`."""
        return numbers(one.number for one in self.partitions)


def read_partitions(
    connection: Connection, links: Mapping[str, FollowerLink]
) -> tuple[PartitionStatus, ...]:
    """Return all partitions; none if the follower does without.

    :param links: all connections of this database, by name.
    """
    if connection.dialect.name != "postgresql":
        return ()
    agreed = read_partitioning(connection)
    if agreed is None:
        return ()
    held = read_holders(connection).partitions
    taken = {row.number: row for row in connection.execute(sql.partitions.TAKEN)}
    vessels = {row.number: row.vessels for row in connection.execute(sql.partitions.COUNTS)}
    return tuple(
        PartitionStatus(
            number=number,
            held=number in held,
            host=taken[number].host if number in taken else None,
            pid=taken[number].pid if number in taken else None,
            since=taken[number].since if number in taken else None,
            taken=taken[number].taken if number in taken else 0,
            vessels=vessels.get(number, 0),
            link=links.get(link_of(agreed.name, number)),
        )
        for number in range(agreed.partitions)
    )


def sharers(partitions: Iterable[PartitionStatus]) -> list[Sharers]:
    """Return the processes that hold partitions, each with its own."""
    found: dict[tuple[str, int], list[PartitionStatus]] = {}
    for one in partitions:
        if one.held and one.host is not None and one.pid is not None:
            found.setdefault((one.host, one.pid), []).append(one)
    return [Sharers(host, pid, tuple(theirs)) for (host, pid), theirs in sorted(found.items())]


def counted(partitions: Sequence[PartitionStatus]) -> str:
    """Return how many partitions and processes there are, in words."""
    processes = len(sharers(partitions))
    several = "" if len(partitions) == 1 else "s"
    return (
        f"{len(partitions)} partition{several}, {processes} process{'' if processes == 1 else 'es'}"
    )


def numbers(found: Iterable[int]) -> str:
    """Return numbers as a person writes them: `0-15, 40`."""
    runs: list[list[int]] = []
    for number in sorted(found):
        if runs and runs[-1][-1] == number - 1:
            runs[-1][-1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
