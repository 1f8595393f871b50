"""gunicorn's hooks: each worker becomes a candidate for ownership, and leaves as one.

In `gunicorn.conf.py`: ``from arus.gunicorn import child_exit, post_worker_init, worker_exit``.
"""

from __future__ import annotations

import os
from typing import Any

from prometheus_client import multiprocess

from .errors import NotInitialisedError
from .extension import AppState, state_of_app


def post_worker_init(worker: Any) -> None:
    """Start: after the fork, and after the application was loaded, with and without `--preload`."""
    _state(worker).start()


def worker_exit(_server: Any, worker: Any) -> None:
    """Stop: on SIGTERM, HUP and `max_requests`. A SIGKILL never comes here, and need not."""
    if getattr(worker, "wsgi", None) is not None:
        _state(worker).stop(timeout=3.0)


def child_exit(_server: Any, worker: Any) -> None:
    """Forget the live gauges of a worker that has ended."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # as shipped


def _state(worker: Any) -> AppState:
    app = worker.wsgi
    if not hasattr(app, "extensions"):
        raise NotInitialisedError(
            "gunicorn serves something that is not a Flask application; wrap app.wsgi_app, not app"
        )
    return state_of_app(app)
