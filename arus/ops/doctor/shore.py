"""The checks of a shore: whether it follows vessels, so that it needs a broker, and how its followers are connected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy.exc import DBAPIError

from arus.follower import sql
from arus.follower.claims import read_claims
from arus.follower.link import has_links, read_links
from arus.follower.partitions.report import (
    PartitionStatus,
    counted,
    numbers,
    read_partitions,
)
from arus.mqtt.diagnosis import Diagnosis

from .finding import Finding, Verdict
from .vessel import Vessel


def check_links(vessel: Vessel) -> Iterator[Finding]:
    """Report how each follower of this database is connected; nothing where none has followed yet."""
    with vessel.engine.connect() as connection:
        if not has_links(connection):
            return
        all_links = read_links(connection)
        partitions = read_partitions(connection, all_links)
        following = vessel.is_owned(connection)
    if partitions and following:
        yield from _partitions(partitions)
        return
    links = all_links.values()
    if links and not following:
        # A partition's link is named after its follower.
        names = ", ".join(sorted({link.name.partition("/")[0] for link in links}))
        yield Finding(
            "follower",
            Verdict.WARN,
            f"no process follows ({names})",
            "start it: flask sync follow --name NAME",
        )
        return
    for link in links:
        if link.connected and link.reason:
            yield _obstructed(link.name, link.reason)
        elif link.connected:
            yield Finding("follower", Verdict.OK, f"{link.name} is connected")
        else:
            last = Diagnosis.parse(link.reason or "")
            says = f"{link.name} is not connected: {last.says or 'it has not tried yet'}"
            fix = last.fix or "see the findings for the broker"
            yield Finding("follower", Verdict.WARN, says, fix)


def _obstructed(who: str, reason: str) -> Finding:
    found = Diagnosis.parse(reason)
    return Finding("follower", Verdict.WARN, f"{who} is connected, but {found.says}", found.fix)


def _partitions(partitions: Sequence[PartitionStatus]) -> Iterator[Finding]:
    """Report which partitions no process holds, and which sessions are not connected."""
    free = [one.number for one in partitions if not one.held]
    if free:
        says = f"no process holds the partitions {numbers(free)} of {len(partitions)}"
        fix = "start another one: flask sync follow --partitions NUMBER; its log says why it can't"
        yield Finding("follower", Verdict.WARN, says, fix)
    for one in partitions:
        if one.held and not one.is_connected:
            last = Diagnosis.parse(one.reason or "")
            says = f"partition {one.number} is not connected: {last.says or 'it has not tried yet'}"
            yield Finding(
                "follower", Verdict.WARN, says, last.fix or "see the findings for the broker"
            )
            return  # one is enough: all use the same broker
        if one.reason:
            yield _obstructed(f"partition {one.number}", one.reason)
            return
    if not free:
        yield Finding("follower", Verdict.OK, f"{counted(partitions)}, all connected")


def check_claims(vessel: Vessel) -> Iterator[Finding]:
    """Report vessels that send rows of other vessels: they were renamed, or set up from a copied disk."""
    with vessel.engine.connect() as connection:
        if not has_links(connection):
            return
        for claim in read_claims(connection):
            yield Finding("rows", Verdict.WARN, claim.says, claim.fix)


def is_follower(vessel: Vessel, *, reachable: bool) -> bool:
    """Return whether this application follows vessels: it has copies of some, or a broker is set in the environment.

    :param reachable: the database can be used.
    """
    if "MQTT_BROKER_URL" in vessel.environment:
        return True
    if not reachable:
        return False
    try:
        with vessel.engine.connect() as connection:
            return connection.execute(sql.report.VESSELS).first() is not None
    except DBAPIError:
        return False  # the application defines no tables for a follower
