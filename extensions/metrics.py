"""Metrics of the requests; those of the sync come from `arus.ops.metrics`."""

from __future__ import annotations

from flask import Flask, request
from prometheus_client import CollectorRegistry
from prometheus_flask_exporter import PrometheusMetrics

from .metric_files import use_reserved_files

_KEY = "request_metrics"
#: Methods of HTTP and of no client's invention (RFC 9110, 9.1; RFC 5789): each has series of its own.
_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
)


def init_metrics(app: Flask) -> None:
    """Count the requests of `app`, in a separate registry.

    Requests are grouped by endpoint, not by path, where each id would create another series.
    """
    use_reserved_files()
    app.before_request(_leave_out_invented_methods)
    app.extensions[_KEY] = PrometheusMetrics(
        app,
        path=None,
        group_by="endpoint",
        excluded_paths=["^/metrics$"],
        registry=CollectorRegistry(),
    )


def _leave_out_invented_methods() -> None:
    if request.method not in _METHODS:
        request.prom_exclude_all = True  # type: ignore[attr-defined]  # read by the exporter


def request_registry(app: Flask) -> CollectorRegistry:
    """Return the registry of `init_metrics`."""
    registry: CollectorRegistry = app.extensions[_KEY].registry
    return registry
