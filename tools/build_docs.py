"""`make docs`: the documentation site in build/docs/site. A warning is an error.

The pages are gathered in one folder with the paths that they have here, so that their links hold there too; the reference of
commands, HTTP, metrics and Python is generated from the code. Links to files that are no pages lead to copies of them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import click
from prometheus_client.core import Metric

from tools.check_docs import ROOT, pages

BUILD = ROOT / "build" / "docs"
#: Further pages that others link to.
MORE = ("tests/README.md", "tests/faults/README.md", "examples/README.md")
_LINK = re.compile(r"(\]\()([^)\s#]+)")
_NOT_IN_ANCHORS = re.compile(r"[^\w\- ]")


def slug(text: str, _separator: str) -> str:
    """Return the anchor of a heading as code hosts make it, so that a link works there and here."""
    return _NOT_IN_ANCHORS.sub("", text.strip().lower()).replace(" ", "-")


def gather(target: Path) -> None:
    """Copy the pages, and the files that they link to."""
    chosen = [*pages(), *(ROOT / name for name in MORE)]
    for page in chosen:
        copy = target / page.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = page.read_text()
        for link in _linked(page, text):
            if link.is_dir():
                text = _without_links_to(page, text, link)
            elif link not in chosen:
                place = target / link.relative_to(ROOT)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(link, place)
        copy.write_text(text)


def _linked(page: Path, text: str) -> Iterator[Path]:
    for _, link in _LINK.findall(text):
        parts = urlsplit(link)
        path = (page.parent / unquote(parts.path)).resolve()
        if not parts.scheme and path.is_relative_to(ROOT) and path.exists():
            yield path


def _without_links_to(page: Path, text: str, folder: Path) -> str:
    """Return a page where links to a folder are their texts: a site has no page for it."""

    def plain(match: re.Match[str]) -> str:
        path = (page.parent / unquote(match[2])).resolve()
        return match[1] if path == folder else match[0]

    return re.sub(r"\[([^\]]*)\]\(([^)\s#:]+)\)", plain, text)


# -- the reference -------------------------------------------------------------------------------------


def commands() -> str:
    """Return the page of all commands, from their own help."""
    from arus.cli.commands import sync_commands

    lines = ["# Commands", "", "`flask --app wsgi sync ...`: also with `--help` in a terminal.", ""]
    for name, command in sorted(sync_commands.commands.items()):
        lines += _command(f"flask sync {name}", command)
    return "\n".join(lines)


def _command(name: str, command: click.Command) -> list[str]:
    context = click.Context(command, info_name=name)
    found = [f"## {name}", "", "```text", command.get_help(context), "```", ""]
    if isinstance(command, click.Group):
        for child, below in sorted(command.commands.items()):
            found += _command(f"{name} {child}", below)
    return found


def http() -> str:
    """Return the page of the HTTP API, from its OpenAPI document."""
    document = _document()
    lines = ["# HTTP", "", str(document["info"].get("description", "")), ""]
    lines += ["The vessel app has this page with all fields and examples at `/api/docs`.", ""]
    lines += ["| request | does | answers |", "|---|---|---|"]
    for path, operations in sorted(document["paths"].items()):
        for method, told in operations.items():
            if "responses" in told:
                summary = str(told.get("summary", "")).replace("|", "\\|")
                answers = ", ".join(sorted(str(status) for status in told["responses"]))
                lines.append(f"| `{method.upper()} {path}` | {summary} | {answers} |")
    return "\n".join(lines) + "\n"


def _document() -> Any:
    from app import create_app

    app = create_app({"SECRET_KEY": "for-the-documentation-only", "TESTING": True})
    answer = app.test_client().get("/api/openapi.json", headers={"Host": "localhost"})
    assert answer.status_code == 200, answer.text
    return answer.get_json()


def metrics() -> str:
    """Return the page of the metrics, from the collector of an application of its own."""
    lines = [
        "# Metrics",
        "",
        "What `GET /metrics` exports aboard. [Operations](../docs/operations.md) has the alerts, and the metrics ashore.",
        "",
    ]
    lines += ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for family in sorted(_families(), key=lambda family: family.name):
        suffix = "_total" if family.type == "counter" else ""
        labels = sorted({label for sample in family.samples for label in sample.labels})
        told = " ".join(f"`{label}`" for label in labels)
        lines.append(
            f"| `{family.name}{suffix}` | {family.type} | {told} | {family.documentation} |"
        )
    return "\n".join(lines) + "\n"


def _families() -> Iterator[Metric]:
    import tempfile

    from flask_migrate import upgrade

    from app import create_app

    with tempfile.TemporaryDirectory(prefix="arus-docs-") as directory:
        url = f"sqlite:///{directory}/vessel.sqlite"
        settings = {"SECRET_KEY": "for-the-documentation-only", "TESTING": True, "LOCAL_MODE": True}
        app = create_app({**settings, "DATABASE_URL": url})
        with app.app_context():
            upgrade()
            yield from app.extensions["arus"].collector().collect()


PYTHON = """\
# Python

What an application uses. All else in `arus` may change between versions.

## The extension

::: arus.ReliableSync

::: arus.Runtime

::: arus.Follower

::: arus.Receipt

::: arus.SyncStatus

::: arus.ChangeState

::: arus.Operation

## Signals

Of `arus.signals`, sent in the owner's process with the application as sender; the values that each carries are named.

SIGNALS

## Errors

::: arus.errors
    options:
      show_root_heading: false
      show_root_toc_entry: false

## Hooks for gunicorn

::: arus.gunicorn
    options:
      show_root_heading: false
      show_root_toc_entry: false

## Your tests

::: arus.testing
"""


def python() -> str:
    """Return the page of the Python API, which mkdocstrings fills in; the signals are from their comments."""
    source = (ROOT / "arus" / "signals.py").read_text()
    found = re.findall(r"^#: (.+)\n(\w+) = _signals", source, re.MULTILINE)
    lines = [
        "| signal | sent when |",
        "|---|---|",
        *(f"| `{name}` | {told} |" for told, name in found),
    ]
    return PYTHON.replace("SIGNALS", "\n".join(lines))


def main() -> int:
    """Build; return mkdocs' exit code."""
    target = BUILD / "pages"
    shutil.rmtree(target, ignore_errors=True)
    gather(target)
    shutil.copytree(ROOT / "docs" / "site", target / "docs" / "site")
    reference = target / "reference"
    reference.mkdir()
    for name, text in (
        ("commands", commands()),
        ("http", http()),
        ("metrics", metrics()),
        ("python", python()),
    ):
        (reference / f"{name}.md").write_text(text)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    # Material's advertisement for its successor is no warning about these pages.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if code == 0:
        print(f"built: {(BUILD / 'site' / 'index.html').relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
