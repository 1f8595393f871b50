"""One term per concept: the glossary's abandoned terms are nowhere, and the layers are one list."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
#: Where terms are looked for. CHANGELOG.md tells of the past; migrations and tests name what they are about.
PLACES = (
    *("*.py", "*.md", "arus/**/*", "blueprints/**/*", "extensions/**/*", "docs/**/*"),
    *("deploy/**/*", "examples/**/*"),
)
#: Abandoned terms that are the value of a setting too, where they stand right behind a quote.
VALUES = {"overflow"}
KINDS = {".py", ".md", ".html", ".yaml", ".js"}


def _table(text: str) -> list[list[str]]:
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def abandoned() -> list[str]:
    _, _, section = GLOSSARY.read_text().partition("## Abandoned terms")
    return [term.strip() for row in _table(section) for term in row[0].split(",")]


def texts() -> Iterator[tuple[str, str]]:
    for path in sorted({path for place in PLACES for path in ROOT.glob(place)}):
        if path.suffix in KINDS and "vendor" not in path.parts and path.name != "CHANGELOG.md":
            text = path.read_text()
            if path == GLOSSARY:
                text = text.partition("## Abandoned terms")[0]
            yield str(path.relative_to(ROOT)), text


@pytest.mark.parametrize("term", abandoned())
def test_no_abandoned_term_is_used(term: str) -> None:
    # An underscore belongs to the word: names of tables and columns keep what they are called.
    before = r"(?<![\w.`\"])" if term in VALUES else r"(?<![\w.])"
    pattern = re.compile(rf"{before}{re.escape(term)}(?!\w)", re.IGNORECASE)
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def test_the_glossary_is_sorted_and_names_each_term_once() -> None:
    text, _, _ = GLOSSARY.read_text().partition("## Abandoned terms")
    terms = [row[0].strip("*").casefold().replace("-", " ") for row in _table(text)]
    assert terms == sorted(set(terms))


def test_the_layers_of_the_architecture_page_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    inside = next(contract for contract in contracts if contract.get("containers") == ["arus"])
    checked = [set(re.findall(r"\w+", layer)) for layer in inside["layers"]]

    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.partition("<!-- layers")[2].partition("<!-- end of layers -->")[0]
    told = [set(re.findall(r"`(\w+)`", row[0])) for row in _table(section)]
    assert told == checked

    there = {
        path.stem for path in (ROOT / "arus").iterdir() if path.suffix == ".py" or path.is_dir()
    }
    assert set().union(*checked) == there - {"__init__", "__pycache__", "py"}
