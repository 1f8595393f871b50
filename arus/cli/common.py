"""What the commands of `flask sync` share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

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

sync_commands = AppGroup(
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
    try:
        yield
    finally:
        sync.stop()
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
