"""Metrics of the requests; those of the sync come from `arus.metrics`."""

from __future__ import annotations

from flask import Flask
from prometheus_client import CollectorRegistry
from prometheus_flask_exporter import PrometheusMetrics

_KEY = "request_metrics"


def init_metrics(app: Flask) -> None:
    """Count the requests of `app`, in a registry of its own.

    Grouped by endpoint, not by path: each id in a path would begin a series of its own.
    """
    app.extensions[_KEY] = PrometheusMetrics(
        app,
        path=None,
        group_by="endpoint",
        excluded_paths=["^/metrics$"],
        registry=CollectorRegistry(),
    )


def request_registry(app: Flask) -> CollectorRegistry:
    """Return what `init_metrics` counts in."""
    registry: CollectorRegistry = app.extensions[_KEY].registry
    return registry
