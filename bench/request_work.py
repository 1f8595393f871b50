"""Requests that `bench.request_cost` counts instructions and system calls of, in a process without a server.

`python -m bench.request_work DATABASE LOCAL_MODE REQUESTS` posts that many work orders to the application by WSGI: all
that a worker does for a request but gunicorn's own reading and writing, which the sync does not touch.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from app import create_app
from bench.backlog import settings

#: Requests before those that are counted: statements are compiled, and caches filled.
WARM = 5


def main() -> None:
    """Post the work orders."""
    database, local_mode, requests = sys.argv[1], sys.argv[2], int(sys.argv[3])
    app = create_app({**settings(Path(database), "mqtt://127.0.0.1:9"), "LOCAL_MODE": local_mode})
    app.testing = (
        True  # no owner runs in this process: what the relay does is not part of a request
    )
    client = app.test_client()
    made = client.post("/api/equipment", json={"name": "Main engine", "type": "engine"})
    order = {
        "equipmentId": made.json["id"] if made.json else "",
        "reason": "Cylinder 4: exhaust valve leaks",
        "description": "Found at the daily round. " * 6,
        "priority": 2,
    }
    gc.collect()
    gc.freeze()
    for _ in range(WARM + requests):
        answer = client.post("/api/work-orders", json=order)
        assert answer.status_code == 201, answer.text


if __name__ == "__main__":
    main()
