"""`flask sync relay`."""

from __future__ import annotations

import threading
import time
from typing import Any

import click

from arus import signals
from arus.runtime import Runtime, current

from .common import TIMEOUT, one_line, stopped_by_signals, sync_commands, visible_log
from .output import echo

#: Seconds between two looks at the queue.
LOOK_EVERY = 0.2
#: Seconds that the relay has for its last message to the broker.
GOODBYE = 1.0


@sync_commands.command("relay")
@click.option("--once", is_flag=True, help="Exit as soon as the queue is empty.")
@click.option(
    "--timeout",
    type=TIMEOUT,
    help="With --once: seconds to wait at most.",
)
def relay_command(once: bool, timeout: float | None) -> None:
    """Send what the application commits, without a web server.

    For Celery workers, cron jobs and scripts, or as a service of its own. Until SIGTERM or Ctrl-C; if another
    process relays already, this one stands by and takes over when that one ends.

    With --once, exits when no change and no catch-up waits any more, whichever process has sent it. Exits with code
    1 if something still waits when it is stopped or the time is up, or if it waits for the next day's data budget.

    \b
    Examples:
      flask sync relay
      flask sync relay --once
      flask sync relay --once --timeout 300
    """  # noqa: D301  # a backspace tells click to keep the lines
    if timeout is not None and not once:
        raise click.UsageError("--timeout goes with --once")
    sync = current()
    if not sync.settings.local_mode:
        raise click.ClickException("LOCAL_MODE is false: nothing is captured, and nothing is sent")
    stopping = threading.Event()
    with one_line(), visible_log(), stopped_by_signals(stopping.set, forced=1 if once else 0):
        waiting = _relay(sync, stopping, once=once, timeout=timeout)
    if once and waiting:
        raise click.ClickException(waiting)


def _relay(
    sync: Runtime, stopping: threading.Event, *, once: bool, timeout: float | None
) -> str | None:
    """Relay until stopped, late, or done; return what still waits."""
    reasons: list[str] = []

    def failed(_sender: Any, error: Exception, **_values: Any) -> None:
        reasons[:] = [str(error)]

    deadline = None if timeout is None else time.monotonic() + timeout
    waiting = _waiting(sync)
    if once and waiting is None:
        return None
    with signals.error.connected_to(failed, sender=sync.app):
        if sync.lock.is_held():
            echo("another process relays; standing by", err=True)
        sync.start()
        try:
            while not stopping.wait(LOOK_EVERY):
                waiting = _waiting(sync) if once else None
                if once and (waiting is None or sync.status().waits_for_budget):
                    break
                if deadline is not None and time.monotonic() >= deadline:
                    break
        finally:
            sync.stop(GOODBYE)
    if waiting is not None and sync.status().waits_for_budget:
        return f"{waiting} for the next day's data budget"
    if waiting is not None and reasons:
        return f"{waiting}: {reasons[0]}"
    return waiting


def _waiting(sync: Runtime) -> str | None:
    """Return what is not sent yet; None if nothing is."""
    if depth := sync.status().depth:
        return f"{depth} {'change waits' if depth == 1 else 'changes wait'}"
    queued = sum(not catchup.finished for catchup in sync.catchups.recent())
    return f"{queued} {'catch-up waits' if queued == 1 else 'catch-ups wait'}" if queued else None
