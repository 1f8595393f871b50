"""A page of HTML that needs no other file and prints on A4."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from msgspec import Struct

_STYLE = """
@page { size: A4; margin: 15mm }
body { font: 10pt/1.45 system-ui, sans-serif; max-width: 56rem; margin: 1.5rem auto; padding: 0 1rem;
  color: #000; background: #fff }
h1 { font-size: 1.35rem } h2 { font-size: 1.1rem; margin-top: 1.6rem }
table { border-collapse: collapse; width: 100% } tr { break-inside: avoid }
th, td { padding: .2rem .5rem; border-bottom: 1px solid #999; text-align: left; vertical-align: top }
"""


class Table(Struct, frozen=True):
    """A table with its heading; the first cell of each row is the row's."""

    title: str
    #: None of them for a list.
    headings: Sequence[str]
    rows: Iterable[Sequence[str]]


def printable(title: str, sentences: Iterable[str], *tables: Table) -> str:
    """Return a page; whatever is in a text is shown as it is."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(sentence)}</p>" for sentence in sentences),
        *(part for table in tables for part in _table(table)),
        "</body></html>",
    ]
    return "\n".join(parts)


def _table(table: Table) -> Iterable[str]:
    yield f"<h2>{escape(table.title)}</h2>\n<table>"
    if table.headings:
        cells = "".join(f'<th scope="col">{escape(one)}</th>' for one in table.headings)
        yield f"<thead><tr>{cells}</tr></thead>"
    yield "<tbody>"
    for first, *rest in table.rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        yield f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'
    yield "</tbody></table>"
