"""What the commands of `flask sync` share."""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource
from flask import current_app
from flask.cli import AppGroup, ScriptInfo
from sqlalchemy.exc import DBAPIError

from arus.database import lacks_tables
from arus.errors import (
    BackupError,
    CaptureError,
    CatchupError,
    ChangeError,
    DrillError,
    EpochError,
    FleetError,
    FollowError,
    LogUnavailableError,
    UnknownMessageError,
)
from arus.runtime import current

from .output import echo, escape_errors

if TYPE_CHECKING:
    from click import ParamType as ParamType  # noqa: PLC0414  # for other modules
else:

    class ParamType(click.ParamType):
        """A type of a parameter; click's own is not generic before version 8.4."""

        def __class_getitem__(cls, _item):
            return cls


T = TypeVar("T")


class NumberRange(click.FloatRange):
    """A number within limits. click's own type lets NaN through, with which a command would wait for ever."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a valid float.", param, ctx)
        return number


#: Seconds to wait; no more than a year, as the system can't wait for ever.
TIMEOUT = NumberRange(0, 365 * 24 * 3600, min_open=True)

#: Seconds from SIGTERM or Ctrl-C to the end of a command that has not ended by itself; two are promised.
LAST_MOMENT = 1.6
#: Seconds for the owner to disconnect from the broker: after the work, and after Ctrl-C.
GOODBYE, SHORT_GOODBYE = 5.0, 1.0


#: A command line in a text; the option that names the application is put in when the text is shown.
_COMMAND_LINE = re.compile(r"\bflask (?=(?:sync|db) )")


def as_given(text: str) -> str:
    """Return a text in which each `flask sync` and `flask db` names the application as this command line did.

    That is `--app NAME` if it was given; FLASK_APP, or a module that Flask finds by itself, need not be repeated.
    """
    ctx = click.get_current_context(silent=True)
    if ctx is None:
        return text
    script, root = ctx.find_object(ScriptInfo), ctx.find_root()
    given = root.get_parameter_source("app") is ParameterSource.COMMANDLINE
    if not given or script is None or script.app_import_path is None:
        return text
    option = f"flask --app {shlex.quote(script.app_import_path)} "
    return _COMMAND_LINE.sub(lambda _found: option, text)


class _Explained(click.Command):
    """A command whose examples name the application."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        text, self.help = self.help, as_given(self.help or "")
        try:
            super().format_help_text(ctx, formatter)
        finally:
            self.help = text


class ExplainedGroup(_Explained, AppGroup):
    """A group whose examples, and those of its commands, name the application."""

    command_class = _Explained


class _SyncGroup(ExplainedGroup):
    def invoke(self, ctx: click.Context) -> Any:
        with ends_when_told():
            try:
                return super().invoke(ctx)
            except click.ClickException as error:
                escape_errors(error)
                raise


@contextmanager
def ends_when_told() -> Iterator[None]:
    """End the process soon after SIGTERM or Ctrl-C, even if the main thread is blocked.

    Python runs a signal handler only when the main thread has returned from C code, such as a name look-up, or SQLite
    waiting for a lock or reading a large table. The wake-up descriptor is written at once, and a second thread reads
    it. Uncommitted work is rolled back, as after a SIGKILL.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are delivered to the main thread only
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
                # Not with click.echo: the main thread may hold the stream's lock in the middle of a write.
                os.write(2, b"interrupted\n")
                os._exit(128 + number[0])


sync_commands = _SyncGroup(
    "sync",
    help="""Show and control the synchronisation with the shore.

    \b
    Examples:
      flask sync status
      flask sync doctor
      flask sync catchup all --since 2h
    """,
)


@contextmanager
def one_line() -> Iterator[None]:
    """Report an expected error in one line, with exit code 1."""
    try:
        yield
    except (
        BackupError,
        CaptureError,
        CatchupError,
        ChangeError,
        DrillError,
        EpochError,
        FleetError,
        FollowError,
        UnknownMessageError,
    ) as error:
        raise click.ClickException(str(error)) from error
    except LogUnavailableError as error:
        raise click.ClickException(f"{error}; {_hint(error.__cause__)}") from error
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise click.ClickException(
            f"the database can't be used ({reason}); {_hint(error)}"
        ) from error
    except BrokenPipeError:
        raise  # the reader of a pipe has closed it: click ends quietly
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'writing'}: {error.strerror}") from error


def _hint(error: BaseException | None) -> str:
    """Return what helps after an error of the database: in this application, if tables are missing, what makes them."""
    if not lacks_tables(error):
        return as_given("look into it with: flask sync doctor")
    if "migrate" in current_app.extensions:
        return as_given("is it migrated? flask db upgrade")
    return "are its tables there? db.create_all() makes them"


@contextmanager
def visible_log() -> Iterator[None]:
    """Show what the sync logs, from INFO, if the application has not configured logging.

    A command that works until it is stopped would say nothing otherwise: Python shows warnings only.
    """
    log = logging.getLogger("arus")
    if log.hasHandlers():
        yield
        return
    handler, level = logging.StreamHandler(), log.level
    log.addHandler(handler)
    log.setLevel(level or logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


@contextmanager
def candidate() -> Iterator[None]:
    """Be a candidate for leadership during the block; a running server keeps the leadership and does the work."""
    sync = current()
    log = logging.getLogger("arus")
    level = log.level
    log.setLevel(logging.CRITICAL)  # the command reports errors itself
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
    """Call `decide` for each, in its own transaction; continue after a failure, and then exit with code 1."""
    done = failed = 0
    for one in chosen:
        try:
            decide(one)
            done += 1
        except (ChangeError, UnknownMessageError, click.ClickException) as error:
            failed += 1
            echo(f"Error: {error}", err=True)
        current().db.session.remove()
    if done or not failed:
        echo(f"{done} {decided}")
    if failed:
        raise click.exceptions.Exit(1)


def known(entity: str | None) -> str | None:
    """Return the entity's name if it exists, or None if none was given; otherwise end with an error."""
    entities = current().entities()
    if entity is not None and entity not in entities:
        raise click.ClickException(
            f"there is no entity {entity!r}; the entities are {', '.join(entities)}"
        )
    return entity


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise, so that nothing unfinished is left behind."""

    def told(number: int, _frame: Any) -> None:
        raise click.exceptions.Exit(128 + number)

    before = signal.signal(signal.SIGTERM, told)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


#: Seconds for a command to stop in order, before the process is ended.
_GOODBYE = 1.3


@contextmanager
def stopped_by_signals(stop: Callable[[], object], *, forced: int) -> Iterator[None]:
    """Call `stop` on SIGTERM or Ctrl-C, and end the process with exit code `forced` if the block goes on too long.

    Opening a connection, or a transaction waiting for another one, may take half a minute. Ending the process loses
    nothing: what is not committed is done again.

    :param stop: called in a thread of its own.
    """
    ended = threading.Event()

    def end() -> None:
        stop()
        if not ended.wait(_GOODBYE):
            os._exit(forced)

    def told(_number: int, _frame: Any) -> None:
        # The handler may have interrupted code that holds the lock it needs, so another thread waits for the
        # lock; and a second signal must not interrupt the handler.
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, signal.SIG_IGN)
        threading.Thread(target=end, daemon=True).start()

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)
