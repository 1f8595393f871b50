"""gunicorn's hooks: each worker becomes a candidate for ownership, and leaves as one.

In `gunicorn.conf.py`: ``from arus.gunicorn import child_exit, post_worker_init, worker_exit``.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

from prometheus_client import multiprocess

from .errors import NotInitialisedError
from .extension import AppState, state_of_app

#: Seconds after which a thread that computes lets another one go on.
SWITCH_INTERVAL = 0.0005


def post_worker_init(worker: Any) -> None:
    """Start: after the fork, and after the application was loaded, with and without `--preload`."""
    shorten_pauses()
    _state(worker).start()


def shorten_pauses() -> None:
    """Spare requests and turns the interpreter's long pauses; to be called once all is loaded.

    A full garbage collection walks over all that a process has loaded, a tenth of a second with this application.
    What is loaded stays, so it need not be looked at again. And a thread that computes keeps the interpreter for five
    milliseconds while another waits for it: a turn of the owner's would hold up each request by as much.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_INTERVAL)


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
