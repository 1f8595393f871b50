"""Brings the translations up to date with the texts in the sources.

python -m tools.translations [--check]

Collects what is marked for translation and merges it into each catalogue: new texts come with an
empty translation, to be filled in by hand, and texts that are gone leave. Nothing needs to be
compiled. With `--check` only says what is missing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_file
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parent.parent
TRANSLATIONS = ROOT / "blueprints" / "ui" / "translations"
#: Where texts are, and what reads them.
SOURCES = {
    "blueprints/**/*.py": "python",
    "arus/web/**/*.py": "python",
    "blueprints/**/templates/**/*.html": "jinja2",
    "arus/web/templates/**/*.html": "jinja2",
}
#: Functions that mark a text, with the places of their arguments.
MARKS: dict[str, tuple[int, ...] | None] = {
    "_": None,
    "gettext": None,
    "lazy": None,
    "mark": None,
    "ngettext": (1, 2),
}

#: Headers that say nothing of the translation, or change each time.
_NOISE = re.compile(r'"(?:Project-Id|Report-Msgid|POT-|PO-|Last-Trans|Language-Team|Generated-By)')


def texts() -> Catalog:
    """All texts that are marked for translation."""
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
                # no line numbers: they would change with each edit
                found.add(said, locations=[(name, 0)], auto_comments=comments)
    return found


def languages() -> list[str]:
    """The languages that there is a catalogue of."""
    return sorted(path.stem for path in TRANSLATIONS.glob("*.po"))


def load(code: str) -> Catalog:
    """The catalogue of a language."""
    with (TRANSLATIONS / f"{code}.po").open("rb") as file:
        return read_po(file, locale=code, abort_invalid=True)


def save(code: str, catalogue: Catalog) -> None:
    """Write the catalogue of a language."""
    text = BytesIO()
    write_po(
        text, catalogue, width=100, sort_output=True, ignore_obsolete=True, include_lineno=False,
        omit_header=False,
    )  # fmt: skip
    kept = (line for line in text.getvalue().decode().splitlines() if not _NOISE.match(line))
    (TRANSLATIONS / f"{code}.po").write_text("\n".join(kept).rstrip() + "\n")


def problems(code: str) -> Iterator[str]:
    """What is wrong with a catalogue, one line each."""
    catalogue = load(code)
    wanted = {message.id for message in texts() if message.id}
    present = {message.id: message for message in catalogue if message.id}
    for said in sorted(wanted, key=str):
        if said not in present:
            yield f"{code}: {said!r} is not in the catalogue: make translations"
        elif not _is_whole(present[said]):
            yield f"{code}: {said!r} has no translation"
    for said in sorted(set(present) - wanted, key=str):
        yield f"{code}: {said!r} is said nowhere any more: make translations"
    for message in catalogue:
        for error in message.check(catalogue):
            yield f"{code}: {message.id!r}: {error}"


def _is_whole(message: Message) -> bool:
    forms = message.string if isinstance(message.string, tuple) else (message.string,)
    return all(forms) and not message.fuzzy


def main() -> int:
    """Update the catalogues; 1 when a translation is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing")
    if not parser.parse_args().check:
        found = texts()
        for code in languages():
            catalogue = load(code)
            # a guess at what a new text means would be shown to people
            catalogue.update(found, no_fuzzy_matching=True)
            save(code, catalogue)
    wrong = [line for code in languages() for line in problems(code)]
    print("\n".join(wrong) or "nothing is missing")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
