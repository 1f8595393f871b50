"""What commands print: texts of messages can't control the terminal."""

from __future__ import annotations

from typing import Any

import click

from arus.escapes import escaped, escaped_json


def echo(text: str, *, styled: str = "", err: bool = False) -> None:
    """Print a line, with control characters escaped.

    :param styled: printed before it, with its escape sequences.
    :param err: print it on standard error.
    """
    click.echo(f"{styled}{escaped(text)}", err=err)


def echo_json(document: bytes | str) -> None:
    """Print a JSON document, with control characters in its texts written as JSON writes them."""
    click.echo(escaped_json(document if isinstance(document, str) else document.decode()))


#: Its message is a help text: our own, in several lines. Older releases of click print the text themselves.
_HELP: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())


def escape_errors(error: click.ClickException) -> None:
    """Escape control characters in the message of an error that click is going to print."""
    if not isinstance(error, _HELP):
        vars(error)["message"] = escaped(error.message)
