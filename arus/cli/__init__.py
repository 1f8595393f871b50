"""`flask sync ...`, loaded when it is called: a server never needs it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

__all__ = ["LoadedLater", "sync_commands"]


class LoadedLater(click.Command):
    """Stands for a command whose module is imported when the command is called or listed.

    :param module: where the command is, as `attribute`.
    """

    def __init__(self, name: str, module: str, attribute: str) -> None:
        super().__init__(name)
        self._module = module
        self._attribute = attribute

    def load(self) -> click.Command:
        """Return the command."""
        command: click.Command = getattr(import_module(self._module), self._attribute)
        return command

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Return the command's own context: click invokes the command that is in it."""
        return self.load().make_context(info_name, args, parent, **extra)

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the line of the command in the list of all."""
        return self.load().get_short_help_str(limit)


sync_commands = LoadedLater("sync", "arus.cli.commands", "sync_commands")
