"""The check of the topics: which are used, and whether vessels share a prefix."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Engine

from arus.follower.admission import not_followed
from arus.follower.link import has_links, read_links
from arus.follower.report import REFUSED_FOR, Scope
from arus.outbox import sql
from arus.outbox.status import SyncStatus, shares_prefix
from arus.protocol.times import now_ms
from arus.protocol.topics import CATCHUP_REQUESTS, VESSEL_ID_LEVEL, WATERMARKS
from arus.settings import Settings

from .finding import Finding, Verdict
from .vessel import Vessel

#: What to do about vessels that share a prefix.
_FIX = f"put the level {VESSEL_ID_LEVEL} into MQTT_TOPIC_PREFIX on each vessel and ashore, as in fleet/{VESSEL_ID_LEVEL}/sync"

#: What the vessel subscribes to for its followers.
_RECEIVED = {
    CATCHUP_REQUESTS: "requests of followers",
    f"{WATERMARKS}/+": "watermarks of followers",
}
#: Milliseconds after which a broker must have answered the subscriptions of a connection.
_ANSWERED = 30_000


def check_topics(settings: Settings, status: SyncStatus | None) -> Iterator[Finding]:
    """Report the topics of a vessel, and another vessel on them.

    :param status: of the vessel's sync; None if it can't be read.
    """
    neighbour = None if status is None else status.shared_with(now_ms())
    if neighbour is not None and not settings.topics.is_per_vessel:
        yield Finding("topics", Verdict.FAIL, shares_prefix(neighbour).partition(": put")[0], _FIX)
        return
    vessel_id = settings.vessel_id or (status.vessel_id if status is not None else None)
    tree = settings.topics
    prefix = tree.pattern if vessel_id is None else tree.prefix_of(vessel_id)
    says = f"all of this vessel are below {prefix}"
    if tree.is_per_vessel:
        says += f"; requests to all vessels come on {tree.of_all}/{CATCHUP_REQUESTS}"
    yield Finding("topics", Verdict.OK, says)


def check_subscriptions(
    settings: Settings, engine: Engine, status: SyncStatus
) -> Iterator[Finding]:
    """Report what the broker does not let the owner receive."""
    since = status.connected_changed_at
    if (
        not status.connected
        or since is None
        or since > now_ms() - _ANSWERED
        or not status.vessel_id
    ):
        return
    prefix = settings.topics.prefix_of(status.vessel_id)
    with engine.connect() as connection:
        held = {row.topic_filter: row.qos for row in connection.execute(sql.inbound.SUBSCRIPTIONS)}
    for name, what in _RECEIVED.items():
        qos = held.get(f"{prefix}/{name}")
        if qos is None:
            says = f"the broker refuses the subscription to {prefix}/{name}: {what} do not arrive"
            fix = "allow the vessel to subscribe to it"
            fix += ", and wildcards in filters" if "+" in name else ""
            yield Finding("topics", Verdict.WARN, says, fix)
        elif qos == 0:
            says = f"the broker lowers the subscription to {prefix}/{name} to QoS 0: {what} may be lost"
            yield Finding("topics", Verdict.WARN, says, "allow QoS 1 in the broker's configuration")


def check_scope(vessel: Vessel) -> Iterator[Finding]:
    """Report which vessels a shore follows, and those that it does not, because they share a prefix."""
    scope = Scope(vessel.settings.topics, vessel.settings.follow_vessels)
    with vessel.engine.connect() as connection:
        if not has_links(connection):
            return
        links = read_links(connection).values()
    if not links:
        return
    since = now_ms() - REFUSED_FOR
    refused = {one for link in links for one in link.refused_since(since)}
    if refused and not scope.tree.is_per_vessel and scope.named is None:
        says = not_followed(sorted(refused)).partition("; put")[0]
        yield Finding(
            "topics", Verdict.WARN, says, f"{_FIX}; or name the vessels in FOLLOW_VESSELS"
        )
        return
    yield Finding("topics", Verdict.OK, f"following {scope}")
