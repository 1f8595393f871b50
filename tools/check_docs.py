"""Checks of the documentation: working links, existing make targets, documented settings, and a valid AsyncAPI
document.

python -m tools.check_docs
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from arus.settings import SETTINGS
from tools import asyncapi

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_MAKE = re.compile(r"\bmake ([a-z][a-z-]*)")


def pages() -> list[Path]:
    """Return all pages of this repository."""
    own = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")]
    return sorted([*own, *ROOT.glob("bench/*.md")])


def problems() -> Iterator[str]:
    """Yield the problems, one line each."""
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in pages():
        text = page.read_text()
        name = page.relative_to(ROOT)
        yield from (f"{name}: {trouble}" for trouble in _bad_links(page, text))
        for code in [*_CODE.findall(text), *(match[0] for match in _FENCE.finditer(text))]:
            for target in _MAKE.findall(code):
                if target not in targets:
                    yield f"{name}: there is no `make {target}`"
    yield from _undocumented_settings()
    for document in sorted(ROOT.glob("docs/asyncapi*.yaml")):
        for trouble in asyncapi.problems(asyncapi.load(document)):
            yield f"{document.relative_to(ROOT)}: {trouble}"


def _bad_links(page: Path, text: str) -> Iterator[str]:
    prose = _CODE.sub("", _FENCE.sub("", text))
    for link in _LINK.findall(prose):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.exists():
            yield f"the link {link} leads nowhere"
        elif not _has_anchor(target, parts.fragment):
            yield f"the link {link} refers to a heading that does not exist"


def _has_anchor(page: Path, fragment: str) -> bool:
    return not fragment or page.suffix != ".md" or fragment in _anchors(page.read_text())


def _anchors(text: str) -> set[str]:
    """Return the fragments of a page's headings, in the form that code hosts generate."""
    seen: dict[str, int] = {}
    found = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower()
        slug = plain.replace(" ", "-")
        number = seen.get(slug, 0)
        seen[slug] = number + 1
        found.add(f"{slug}-{number}" if number else slug)
    return found


def _undocumented_settings() -> Iterator[str]:
    text = "\n".join(page.read_text() for page in pages())
    for setting in SETTINGS:
        if not re.search(rf"`{setting}\b", text):
            yield f"the setting {setting} is not documented"


def main() -> int:
    """Print the problems; return 1 if there are any."""
    found = list(problems())
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
