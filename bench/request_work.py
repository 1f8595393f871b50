"""Requests that `bench.request_cost` counts instructions and system calls of, in a process without a server.

`python -m bench.request_work DATABASE LOCAL_MODE REQUESTS` posts that many work orders to the application by WSGI: all
that a worker does for a request but gunicorn's own reading and writing, which the sync does not touch. With several numbers,
a child process posts each number of them, and their process ids are printed.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

from app import create_app
from bench.backlog import settings
from extensions import db

#: Requests before those that are counted: statements are compiled, and caches filled.
WARM = 5


def main() -> None:
    """Post the work orders."""
    database, local_mode, *counts = sys.argv[1:]
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
    with app.app_context():
        db.engine.dispose()  # no connection of SQLite survives a fork
    gc.collect()
    gc.freeze()

    def post(requests: int) -> None:
        for _ in range(WARM + requests):
            answer = client.post("/api/work-orders", json=order)
            assert answer.status_code == 201, answer.text

    if len(counts) == 1:
        post(int(counts[0]))
        return
    for requests in counts:
        child = os.fork()
        if child == 0:
            post(int(requests))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, "a child has failed"
        print(child)


if __name__ == "__main__":
    main()
