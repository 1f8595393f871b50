"""The health document of `GET /api/mqtt/reliable-sync/health`."""

from __future__ import annotations

from typing import Any

from arus.outbox.counters import DROPPED, FAILURES, FLUSHES, PUBLISHED, QUEUED, RECONNECTS
from arus.outbox.status import SyncStatus
from arus.protocol.times import iso, now_ms
from arus.settings import Settings


def health_document(status: SyncStatus, settings: Settings, *, topics: int) -> dict[str, Any]:
    """Return the health document.

    :param topics: topics that this vessel publishes under the prefix.
    """
    now = now_ms()
    trouble = status.trouble(now)
    counted = status.totals()
    return {
        "service": "MQTT Reliable Sync Service",
        "status": "degraded" if trouble else "healthy",
        "timestamp": iso(now),
        "mqtt": {
            "enabled": status.enabled,
            "status": "connected" if status.connected else "disconnected",
            "reason": status.reason_of(now),
            "broker": str(settings.broker),
            "qosLevel": 1,
            "queuedMessages": status.depth,
            "maxQueueSize": status.max_queue_size,
            "queueUtilization": f"{status.utilization:.1f}%",
            "activeSubscriptions": status.subscriptions,
            "topics": topics,
            "reconnectAttempts": status.reconnect_attempts,
            "tlsEnabled": settings.broker.tls,
        },
        "detailedMetrics": {
            "messagesPublished": counted[PUBLISHED],
            "messagesQueued": counted[QUEUED],
            "messagesDropped": counted[DROPPED],
            "publishFailures": counted[FAILURES],
            "reconnectionAttempts": counted[RECONNECTS],
            "queueFlushes": counted[FLUSHES],
            "currentQueueSize": status.depth,
            "maxQueueSize": status.max_queue_size,
            "queueUtilization": round(status.utilization, 3),
            "isConnected": status.connected,
            "reconnectAttempts": status.reconnect_attempts,
        },
        "owner": status.owner.document() if status.owner else None,
        "dataUsage": status.usage.document(),
    }
