"""Every command of `flask sync` explains itself."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from arus.cli.commands import sync_commands


def commands(
    command: click.Command, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and all under it, by the words that call them."""
    yield words, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*words, name))


ALL = dict(commands(sync_commands))


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_its_help_has_examples_of_itself_and_each_option_a_meaning(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(sync_commands, [*words, "--help"])
    assert done.exit_code == 0
    examples = done.output.partition("Example")[2]
    assert " ".join(("flask sync", *words)) in examples
    for parameter in ALL[words].params:
        assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), parameter


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (words, parameter.opts[0])
        for words, command in ALL.items()
        for parameter in command.params
        if isinstance(parameter.type, click.types.FloatParamType)
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_number_has_an_end(words: tuple[str, ...], option: str, number: str) -> None:
    done = CliRunner().invoke(sync_commands, [*words, option, number])
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.output


def test_all_that_the_contract_names_is_there() -> None:
    named = {"status", "catchup", "queue", "doctor", "follow", "audit", "relay", "backup"}
    assert named <= {words[0] for words in ALL if words}
    verbs = {words[1] for words in ALL if words[:1] == ("queue",) and len(words) == 2}
    assert verbs == {"list", "show", "retry", "discard", "export"}
