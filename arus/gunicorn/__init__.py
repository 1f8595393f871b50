"""gunicorn's hooks: each worker is a candidate for leadership from its start to its exit.

In `gunicorn.conf.py`: ``from arus.gunicorn import child_exit, post_worker_init, worker_exit``.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

from arus import runtime
from arus.errors import NotInitialisedError
from arus.runtime import Runtime

#: Seconds after which a computing thread yields the interpreter to a waiting one.
SWITCH_INTERVAL = 0.0005


def post_worker_init(worker: Any) -> None:
    """Start the sync: after the fork and after the application was loaded, with and without `--preload`."""
    shorten_pauses()
    _runtime(worker).start()


def shorten_pauses() -> None:
    """Shorten the interpreter's pauses in requests and in the owner's transactions; call once all modules are loaded.

    A full garbage collection traverses all loaded objects, which takes a tenth of a second with this application.
    These objects stay, so they are frozen and no longer traversed. And by default a computing thread keeps the
    interpreter for five milliseconds while another waits: the owner's work would delay each request by as much.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_INTERVAL)


def worker_exit(_server: Any, worker: Any) -> None:
    """Stop the sync: on SIGTERM, HUP and `max_requests`. After a SIGKILL it is not called, and need not be."""
    if getattr(worker, "wsgi", None) is not None:
        _runtime(worker).stop(timeout=3.0)


def child_exit(_server: Any, worker: Any) -> None:
    """Remove the live gauges of a worker that has ended."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        # An application without such metrics need not load prometheus_client.
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # as shipped


def _runtime(worker: Any) -> Runtime:
    app = worker.wsgi
    if not hasattr(app, "extensions"):
        raise NotInitialisedError(
            "gunicorn serves something that is not a Flask application; wrap app.wsgi_app, not app"
        )
    return runtime.of(app)
