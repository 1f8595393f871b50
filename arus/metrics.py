"""The Prometheus metrics: read from the database at each scrape, so that every worker tells the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .counters import (
    CATCHUP_REFUSALS,
    DROPPED,
    FAILURES,
    FLUSHES,
    PROPOSAL_REFUSALS,
    PUBLISHED,
    QUEUED,
    RECONNECTS,
)
from .followers import FollowerStatus
from .message import Operation
from .registry import Registration
from .status import SyncStatus

_PREFIX = "arus_mqtt_"
_PLAIN = {
    QUEUED: "Changes that found no connection when they were committed",
    DROPPED: "Changes given up because the queue was full",
    FAILURES: "Changes that could not be sent",
    RECONNECTS: "Attempts to connect again",
    FLUSHES: "Times that all that had waited for the connection was delivered",
    CATCHUP_REFUSALS: "Requests for a catch-up over MQTT that were malformed or too many",
    PROPOSAL_REFUSALS: "Proposals that were malformed",
}


class SyncCollector(Collector):
    """Collects the sync's metrics.

    :param read: returns the status, from shared state.
    :param followers: returns what is known of each follower, likewise.
    :param registrations: the synchronised models, whose series exist from the start.
    """

    def __init__(
        self,
        read: Callable[[], SyncStatus],
        followers: Callable[[], Iterable[FollowerStatus]],
        registrations: Iterable[Registration],
    ) -> None:
        self._read = read
        self._followers = followers
        self._registrations = registrations

    def collect(self) -> Iterator[Metric]:
        """Yield all families; each counter is there with 0 before it ever counted."""
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
        yield from self._followed()

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
            "All changes up to here are applied by a follower",
            labels=("follower",),
        )
        for follower in self._followers():
            labels = (follower.name,)
            lag.add_metric(labels, follower.lag)
            seconds.add_metric(labels, follower.lag_ms / 1000)
            applied.add_metric(labels, follower.applied_seq)
        yield from (lag, seconds, applied)

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


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}{name}", help_text, value=value)
