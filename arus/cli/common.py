"""What the commands of `flask sync` share."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click
from flask import current_app
from flask.cli import AppGroup
from sqlalchemy.exc import DBAPIError

from arus.errors import (
    CatchupError,
    ChangeError,
    FollowError,
    LogUnavailableError,
    UnknownMessageError,
)

if TYPE_CHECKING:
    from arus.extension import AppState

T = TypeVar("T")

#: Seconds from SIGTERM or Ctrl-C to the end of a command that has not ended by itself; two are promised.
LAST_MOMENT = 1.6
#: Seconds for the owner's goodbye to the broker: after the work, and when a person has lost patience.
GOODBYE, SHORT_GOODBYE = 5.0, 1.0


class _SyncGroup(AppGroup):
    def invoke(self, ctx: click.Context) -> Any:
        with ends_when_told():
            return super().invoke(ctx)


@contextmanager
def ends_when_told() -> Iterator[None]:
    """End the process soon after SIGTERM or Ctrl-C, whatever the main thread waits for.

    Python runs a signal's handler once the main thread is back from C code: from a name look-up, or from SQLite, which may
    wait for a lock or read a large table. The wake-up descriptor is written to at once. What was not
    committed is rolled back, as after a SIGKILL.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # no signal comes here
        return
    listening, woken = socket.socketpair()
    woken.setblocking(False)
    ended = threading.Event()
    before = signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(listening, ended), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        woken.close()
        watch.join()


def _watch(listening: socket.socket, ended: threading.Event) -> None:
    with closing(listening):
        while number := listening.recv(1):
            if number[0] in {signal.SIGTERM, signal.SIGINT} and not ended.wait(LAST_MOMENT):
                # Not by click.echo: the main thread may be within a write of its own, and hold the lock.
                os.write(2, b"interrupted\n")
                os._exit(128 + number[0])


sync_commands = _SyncGroup(
    "sync",
    help="""See and steer the synchronisation with the shore.

    \b
    Examples:
      flask --app wsgi sync status
      flask --app wsgi sync doctor
      flask --app wsgi sync catchup all --since 2h
    """,
)


def state() -> AppState:
    """Return the sync's state of the application that the command runs for."""
    found: AppState = current_app.extensions["arus"]
    return found


@contextmanager
def one_line() -> Iterator[None]:
    """Turn what can go wrong into one line and exit code 1."""
    try:
        yield
    except (
        CatchupError,
        ChangeError,
        FollowError,
        LogUnavailableError,
        UnknownMessageError,
    ) as error:
        raise click.ClickException(str(error)) from error
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise click.ClickException(
            f"the database can't be used ({reason}); is it migrated? flask --app wsgi db upgrade"
        ) from error
    except BrokenPipeError:
        raise  # click ends quietly: whoever read has seen enough
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'writing'}: {error.strerror}") from error


@contextmanager
def candidate() -> Iterator[None]:
    """Wait for ownership in this process meanwhile; where a server runs, it keeps that and does the work."""
    sync = state()
    log = logging.getLogger("arus")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what goes wrong is told in the command's own words
    sync.start()
    goodbye = GOODBYE
    try:
        yield
    except KeyboardInterrupt:
        goodbye = SHORT_GOODBYE
        raise
    finally:
        sync.stop(goodbye)
        log.setLevel(level)


def decide_each(chosen: Iterable[T], decide: Callable[[T], object], decided: str) -> None:
    """Decide on each, in a transaction of its own; the others go on when one fails, and the exit code tells."""
    done = failed = 0
    for one in chosen:
        try:
            decide(one)
            done += 1
        except (ChangeError, UnknownMessageError, click.ClickException) as error:
            failed += 1
            click.echo(f"Error: {error}", err=True)
        state().db.session.remove()
    if done or not failed:
        click.echo(f"{done} {decided}")
    if failed:
        raise click.exceptions.Exit(1)


def known(entity: str | None) -> str | None:
    """Return the entity if there is one of this name, or none was given; else end in one line."""
    entities = state().entities()
    if entity is not None and entity not in entities:
        raise click.ClickException(
            f"there is no entity {entity!r}; there are {', '.join(entities)}"
        )
    return entity
