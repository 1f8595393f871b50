"""Functions and classes of the product are small enough to hold in the head."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Lines.
LONGEST_FUNCTION = 50
LONGEST_CLASS = 300


def definitions(*kinds: type[ast.AST]) -> Iterator[tuple[str, int]]:
    for path in sorted((ROOT / "arus").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kinds) and isinstance(node, ast.stmt):
                name = getattr(node, "name", "")
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{path.relative_to(ROOT)}: {name} has {lines} lines", lines


def test_no_function_is_long() -> None:
    found = definitions(ast.FunctionDef, ast.AsyncFunctionDef)
    assert not [what for what, lines in found if lines > LONGEST_FUNCTION]


def test_no_class_is_long() -> None:
    assert not [what for what, lines in definitions(ast.ClassDef) if lines > LONGEST_CLASS]
