"""The package `arus` declares what it imports, and does not speak of this repository's application."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import arus

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = sorted((ROOT / "arus").rglob("*.py"))


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> set[str]:
    """The packages outside of the standard library that are imported anywhere."""
    found = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.partition(".")[0])
    # `compression` belongs to Python from 3.14 on.
    return found - set(sys.stdlib_module_names) - {"arus", "compression"}


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def test_every_import_is_declared() -> None:
    declared = {normalised(re.split(r"[<>=;\[]", line)[0]) for line in PROJECT["dependencies"]}
    of = packages_distributions()
    missing = {name for name in imported() if not {normalised(one) for one in of[name]} & declared}
    assert not missing


def test_no_lower_bound_is_above_what_is_locked() -> None:
    locked = dict(
        re.findall(r"^([\w.-]+)==([\d.]+)", (ROOT / "requirements.lock").read_text(), re.M)
    )
    for line in PROJECT["dependencies"]:
        name, _, lowest = line.partition(";")[0].partition(">=")
        assert version(lowest) <= version(locked[normalised(name)]), line


def test_the_version_is_in_one_place() -> None:
    assert "version" in PROJECT["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", arus.__version__)


def test_no_text_names_the_module_of_this_repositorys_application() -> None:
    named = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in [*MODULES, *(ROOT / "arus").rglob("*.html")]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"--app wsgi|\bwsgi:app|`wsgi`", line)
    ]
    assert not named
