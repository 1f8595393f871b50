"""The Prometheus metrics, read from the database at each scrape, so that every worker reports the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from arus.follower import outcome
from arus.follower.fleet import FleetSummary
from arus.mqtt.meter import Kind
from arus.outbox.counters import (
    BYTES_SENT,
    CATCHUP_REFUSALS,
    DROPPED,
    FAILURES,
    FLUSHES,
    PROPOSAL_REFUSALS,
    PUBLISHED,
    QUEUED,
    RECONNECTS,
    SUPERSEDED,
    UNCAPTURED,
    WATERMARK_REFUSALS,
)
from arus.outbox.followers import FollowerStatus
from arus.outbox.status import SyncStatus
from arus.protocol.entries import Operation
from arus.protocol.times import now_ms
from arus.registry import Registration

from .surroundings import Surroundings

_PREFIX = "arus_mqtt_"
_PLAIN = {
    QUEUED: "Changes that were committed without a connection to the broker",
    DROPPED: "Changes dropped because the queue was full",
    SUPERSEDED: "Changes that were not sent because a newer change of their row replaced them",
    FAILURES: "Changes that could not be sent",
    RECONNECTS: "Attempts to reconnect",
    FLUSHES: "Times that a queue left by an outage was delivered completely",
    CATCHUP_REFUSALS: "Requests for a catch-up over MQTT that were malformed or over the limit",
    outcome.FOREIGN: "Changes that a follower has refused because the row belongs to another vessel",
    WATERMARK_REFUSALS: "Watermarks of followers that were malformed, untrue or over the limit",
    PROPOSAL_REFUSALS: "Proposals that were malformed",
    outcome.REFUSED: "Ashore: rows and messages that the follower could not read or write",
    outcome.HELD: "Ashore: changes that had to wait for another row",
    outcome.NOT_HELD: "Ashore: changes that were not held because too many are",
    outcome.FORGOTTEN: "Ashore: vessels that have proved nothing and were forgotten",
    UNCAPTURED: "Statements that have written to registered tables and could not be captured",
}


class SyncCollector(Collector):
    """Collects the sync's metrics.

    :param read: returns the status, read from the database.
    :param followers: returns the status of each follower, likewise.
    :param registrations: the synchronised models, whose series exist from the start.
    :param dead_letters: returns how many inbound messages wait for a person.
    :param surroundings: the disk and the certificates of this machine.
    :param fleet: returns the figures of all vessels, likewise; None on a vessel.
    """

    def __init__(
        self,
        read: Callable[[], SyncStatus],
        followers: Callable[[], Iterable[FollowerStatus]],
        registrations: Iterable[Registration],
        dead_letters: Callable[[], int],
        surroundings: Surroundings,
        fleet: Callable[[], FleetSummary] | None = None,
    ) -> None:
        self._read = read
        self._followers = followers
        self._registrations = registrations
        self._dead_letters = dead_letters
        self._surroundings = surroundings
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        """Yield all families; a counter that has never counted is exported as 0."""
        status = self._read()
        published = CounterMetricFamily(
            f"{_PREFIX}{PUBLISHED}",
            "Changes that the broker acknowledged",
            labels=("entity_type", "operation", "qos"),
        )
        for labels, value in self._published(status).items():
            published.add_metric(labels, value)
        yield published
        for name, help_text in _PLAIN.items():
            yield CounterMetricFamily(f"{_PREFIX}{name}", help_text, value=status.counter(name))
        yield _gauge("queue_depth", "Undelivered changes", status.depth)
        yield _gauge("queue_utilization_percent", "How full the queue is", status.utilization)
        yield _gauge("connection_status", "1 while connected to the broker", int(status.connected))
        yield _gauge(
            "stalled",
            "1 while messages have waited for a minute on an open connection, and nothing was acknowledged",
            int(status.is_stalled(now_ms())),
        )
        yield from _waiting(status)
        yield _gauge(
            "dead_letters",
            "Inbound messages that could not be handled and wait for a person",
            self._dead_letters(),
        )
        yield from _usage(status)
        yield from self._followed()
        yield from self._on_this_machine()
        if self._fleet is not None:
            yield from _fleet(self._fleet())

    def _followed(self) -> Iterator[Metric]:
        lag = GaugeMetricFamily(
            f"{_PREFIX}follower_lag",
            "Changes that a follower has not applied",
            labels=("follower",),
        )
        seconds = GaugeMetricFamily(
            f"{_PREFIX}follower_lag_seconds",
            "Age of the oldest change that a follower has not applied",
            labels=("follower",),
        )
        applied = GaugeMetricFamily(
            f"{_PREFIX}follower_applied_seq",
            "Number up to which a follower has applied all changes",
            labels=("follower",),
        )
        equal = GaugeMetricFamily(
            f"{_PREFIX}follower_audit_equal",
            "1 if a follower's last audit in this epoch has found its copy equal, 0 if it differs",
            labels=("follower",),
        )
        silent = GaugeMetricFamily(
            f"{_PREFIX}follower_silent_seconds",
            "Seconds since the last watermark of a follower arrived",
            labels=("follower",),
        )
        now = now_ms()
        for follower in self._followers():
            labels = (follower.name,)
            lag.add_metric(labels, follower.lag)
            seconds.add_metric(labels, follower.lag_ms / 1000)
            applied.add_metric(labels, follower.applied_seq)
            silent.add_metric(labels, max(0, now - follower.received_at) / 1000)
            if follower.audit_equal is not None:
                equal.add_metric(labels, int(follower.audit_equal))
        yield from (lag, seconds, applied, silent, equal)

    def _on_this_machine(self) -> Iterator[Metric]:
        expiry = GaugeMetricFamily(
            f"{_PREFIX}certificate_expiry_timestamp_seconds",
            "When the first certificate of MQTT_TLS_CERT (client) or MQTT_TLS_CA (ca) expires; 0 if it can't be read",
            labels=("certificate",),
        )
        for name, at in self._surroundings.certificates().items():
            expiry.add_metric((name,), at)
        yield expiry
        if (disk := self._surroundings.disk()) is not None:
            yield _gauge("disk_size_bytes", "Size of the disk with the SQLite database", disk.total)
            yield _gauge("disk_free_bytes", "Free space on that disk", disk.free)

    def _published(self, status: SyncStatus) -> dict[tuple[str, str, str], int]:
        series = {
            (registration.entity, operation.value, str(registration.qos)): 0
            for registration in self._registrations
            for operation in Operation
        }
        for (name, *labels), value in status.counters.items():
            if name == PUBLISHED:
                series[labels[0], labels[1], labels[2]] = value
        return series


def _waiting(status: SyncStatus) -> Iterator[Metric]:
    now = now_ms()
    oldest = 0 if status.oldest_pending_at is None else max(0, now - status.oldest_pending_at)
    yield _gauge("enabled", "1 on a vessel (LOCAL_MODE), 0 ashore", int(status.enabled))
    yield _gauge(
        "owner_present",
        "1 while a process holds the MQTT session, connected or not",
        int(status.owner is not None),
    )
    yield _gauge(
        "disconnected_seconds",
        "Seconds since the connection to the broker was lost; 0 while there is one, and ashore",
        status.disconnected_for(now) / 1000,
    )
    yield _gauge(
        "unacknowledged_seconds",
        "Seconds that changes have waited without an acknowledgement of the broker; 0 if none waits",
        status.unacknowledged_for(now) / 1000,
    )
    yield _gauge(
        "oldest_change_seconds",
        "Age of the oldest undelivered change; 0 if there is none",
        oldest / 1000,
    )
    yield _gauge(
        "quarantined_changes",
        "Changes that can't be sent and wait for a person",
        status.quarantined,
    )


def _fleet(summary: FleetSummary) -> Iterator[Metric]:
    """Yield the figures of a fleet: the number of series does not depend on the number of vessels."""
    vessels = GaugeMetricFamily(
        f"{_PREFIX}fleet_vessels", "Vessels that are followed, by presence", labels=("presence",)
    )
    vessels.add_metric(("online",), summary.online)
    vessels.add_metric(("offline",), summary.vessels - summary.online)
    yield vessels
    audits = GaugeMetricFamily(
        f"{_PREFIX}fleet_audits", "Vessels by the result of their last audit", labels=("result",)
    )
    audits.add_metric(("equal",), summary.equal)
    audits.add_metric(("differs",), summary.differs)
    audits.add_metric(("none",), summary.vessels - summary.audited)
    yield audits
    yield _gauge("fleet_vessels_behind", "Vessels with changes not applied here", summary.behind)
    yield _gauge("fleet_changes_behind", "Known changes not applied here", summary.behind_changes)
    yield _gauge(
        "fleet_behind_since_seconds",
        "Since when a vessel has been behind, of the longest one, as Unix time; 0 if none is",
        (summary.behind_since or 0) / 1000,
    )
    yield _gauge(
        "fleet_oldest_equal_seconds",
        "When each vessel was last found equal, of these times the oldest, as Unix time; 0 if none was",
        (summary.oldest_equal_at or 0) / 1000,
    )
    yield _gauge(
        "fleet_vessels_never_equal",
        "Vessels that no audit of their epoch has found equal",
        summary.vessels - summary.ever_equal,
    )
    yield _gauge("fleet_refused_rows", "Rows that can't be read or written here", summary.refused)
    yield _gauge("fleet_held_changes", "Changes that wait for another row", summary.held)
    yield _gauge(
        "fleet_vessels_with_other_fields",
        "Vessels whose tables have other fields than those here",
        summary.fields_differ,
    )


def _usage(status: SyncStatus) -> Iterator[Metric]:
    usage = status.usage
    sent = CounterMetricFamily(
        f"{_PREFIX}{BYTES_SENT}", "Bytes that have left, by what they are for", labels=("kind",)
    )
    for kind in Kind:
        sent.add_metric((kind,), status.counters.get((BYTES_SENT, kind, "", ""), 0))
    yield sent
    yield _gauge("data_used_bytes", "Bytes sent today, in the ship's time zone", usage.used)
    yield _gauge(
        "data_budget_bytes", "Bytes that may be sent today; 0 for no limit", usage.budget.limit or 0
    )
    if usage.left is not None:
        yield _gauge("data_left_bytes", "Bytes left of today's data budget", usage.left)
    yield _gauge(
        "data_held_changes", "Changes that wait for the next day's data budget", usage.waiting
    )


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}{name}", help_text, value=value)
