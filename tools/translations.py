"""Brings the translations up to date with the texts in the sources.

python -m tools.translations [--check]

Collects the texts that are marked for translation and merges them into each catalogue: new texts get an
empty translation, to be filled in by hand, and unused texts are removed. Then compiles the catalogues to
the `.mo` files, which the pages read and which are in the repository. With `--check` it only reports problems.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_file
from babel.messages.mofile import read_mo, write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parent.parent
TRANSLATIONS = ROOT / "blueprints" / "ui" / "translations"
#: The files with texts, and their extraction methods.
SOURCES = {
    "blueprints/**/*.py": "python",
    "arus/web/**/*.py": "python",
    "blueprints/**/templates/**/*.html": "jinja2",
    "arus/web/templates/**/*.html": "jinja2",
}
#: Functions that mark a text, with the positions of their arguments.
MARKS: dict[str, tuple[int, ...] | None] = {
    "_": None,
    "gettext": None,
    "lazy": None,
    "mark": None,
    "ngettext": (1, 2),
}

#: Headers that have no meaning for the translation, or change each time.
_NOISE = re.compile(r'"(?:Project-Id|Report-Msgid|POT-|PO-|Last-Trans|Language-Team|Generated-By)')


def texts() -> Catalog:
    """Return all texts that are marked for translation."""
    found = Catalog(project="arus", charset="utf-8")
    for pattern, method in SOURCES.items():
        for path in sorted(ROOT.glob(pattern)):
            name = str(path.relative_to(ROOT))
            options = {"silent": "false"} if method == "jinja2" else {}
            for _line, said, comments, _context in extract_from_file(
                method,
                str(path),
                keywords=MARKS,
                comment_tags=["For translators:"],
                options=options,
            ):
                # without line numbers, which would change with each edit
                found.add(said, locations=[(name, 0)], auto_comments=comments)
    return found


def languages() -> list[str]:
    """Return the languages that have a catalogue."""
    return sorted(path.parts[-3] for path in TRANSLATIONS.glob("*/LC_MESSAGES/messages.po"))


def path_of(code: str, suffix: str = ".po") -> Path:
    """Return the path of a language's catalogue, where gettext expects it."""
    return TRANSLATIONS / code / "LC_MESSAGES" / f"messages{suffix}"


def load(code: str) -> Catalog:
    """Load the catalogue of a language."""
    with path_of(code).open("rb") as file:
        return read_po(file, locale=code, abort_invalid=True)


def save(code: str, catalogue: Catalog) -> None:
    """Write the catalogue of a language."""
    text = BytesIO()
    write_po(
        text, catalogue, width=100, sort_output=True, ignore_obsolete=True, include_lineno=False,
        omit_header=False,
    )  # fmt: skip
    kept = (line for line in text.getvalue().decode().splitlines() if not _NOISE.match(line))
    path_of(code).write_text("\n".join(kept).rstrip() + "\n")


def compile_catalogue(code: str) -> None:
    """Compile the catalogue that people edit to the file that the pages read."""
    catalogue = load(code)
    # The same catalogue must result in the same file.
    catalogue.creation_date = catalogue.revision_date = datetime(2026, 1, 1, tzinfo=UTC)
    with path_of(code, ".mo").open("wb") as file:
        write_mo(file, catalogue)


def is_compiled(code: str) -> bool:
    """Return whether the compiled catalogue has the same content as the source."""
    if not path_of(code, ".mo").exists():
        return False
    with path_of(code, ".mo").open("rb") as file:
        compiled = read_mo(file)
    return _said(compiled) == _said(load(code))


def _said(catalogue: Catalog) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return the translations: the forms of each text, and those of its translation."""
    return {_forms(m.id): _forms(m.string) for m in catalogue if m.id and _is_whole(m)}


def _forms(said: str | Iterable[str] | None) -> tuple[str, ...]:
    return (said or "",) if said is None or isinstance(said, str) else tuple(said)


def problems(code: str) -> Iterator[str]:
    """Yield the problems of a catalogue, one line each."""
    catalogue = load(code)
    wanted = {message.id for message in texts() if message.id}
    present = {message.id: message for message in catalogue if message.id}
    for said in sorted(wanted, key=str):
        if said not in present:
            yield f"{code}: {said!r} is not in the catalogue: make translations"
        elif not _is_whole(present[said]):
            yield f"{code}: {said!r} has no translation"
    for said in sorted(set(present) - wanted, key=str):
        yield f"{code}: {said!r} is no longer used: make translations"
    for message in catalogue:
        for error in message.check(catalogue):
            yield f"{code}: {message.id!r}: {error}"
    if not is_compiled(code):
        yield f"{code}: the compiled catalogue is out of date: make translations"


def _is_whole(message: Message) -> bool:
    return all(_forms(message.string)) and not message.fuzzy


def main() -> int:
    """Update the catalogues; return 1 if a translation is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing")
    if not parser.parse_args().check:
        found = texts()
        for code in languages():
            catalogue = load(code)
            # a fuzzy translation of a new text could be wrong, and would be shown to people
            catalogue.update(found, no_fuzzy_matching=True)
            save(code, catalogue)
            compile_catalogue(code)
    wrong = [line for code in languages() for line in problems(code)]
    print("\n".join(wrong) or "nothing is missing")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
