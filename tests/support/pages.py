"""The code blocks of README and docs, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests.support.gunicorn_app import ROOT

README = ROOT / "README.md"
PLUGIN = ROOT / "docs" / "plugin.md"

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)


class Block(NamedTuple):
    """A code block."""

    language: str
    code: str


def blocks(page: Path, heading: str, language: str | None = None) -> list[Block]:
    """The blocks under a heading, those under its subheadings too."""
    text = page.read_text()
    prose = _BLOCK.sub(lambda block: " " * len(block[0]), text)  # a comment in code is no heading
    found = list(_HEADING.finditer(prose))
    (at,) = [n for n, match in enumerate(found) if match[2] == heading]
    level = len(found[at][1])
    ends = [match.start() for match in found[at + 1 :] if len(match[1]) <= level]
    part = text[found[at].start() : ends[0] if ends else len(text)]
    every = [Block(*match.groups()) for match in _BLOCK.finditer(part)]
    return [block for block in every if language in (None, block.language)]
