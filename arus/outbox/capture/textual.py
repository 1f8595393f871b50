"""Which tables a SQL text writes to: recognised by its words, as nothing else knows its rows."""

from __future__ import annotations

import re
from typing import NamedTuple

from .tables import RegisteredTables

#: Texts whose verdicts are remembered.
_MAX_KNOWN = 1_000

_NOISE = re.compile(r"\b[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", re.DOTALL)
#: Statements that only define something, and those with a body: a trigger's is no write.
_DEFINES = re.compile(
    r"\s*(CREATE|ALTER|DROP|COMMENT|GRANT|EXPLAIN(?!.*\bANALYZE\b)|PRAGMA)\b",
    re.IGNORECASE | re.DOTALL,
)
_HAS_BODY = re.compile(
    r"\s*CREATE\s+(?:\w+\s+){0,3}(?:TRIGGER|FUNCTION|PROCEDURE|RULE)\b", re.IGNORECASE
)
_IDENTIFIER = r'(?:"(?:[^"]|"")+"|`[^`]+`|\[[^\]]+\]|\w+)'
_WRITE = re.compile(
    r"\b(?:INSERT\s+(?:OR\s+\w+\s+)?INTO|REPLACE\s+INTO|UPDATE(?:\s+OR\s+\w+)?|(?P<delete>DELETE\s+FROM)"
    r"|MERGE\s+INTO|(?P<truncate>TRUNCATE(?:\s+TABLE)?)|COPY)(?:\s+ONLY)?\s+"
    rf"(?:(?P<schema>{_IDENTIFIER})\s*\.\s*)?(?P<name>{_IDENTIFIER})",
    re.IGNORECASE,
)
#: The next one of the tables that a TRUNCATE names.
_NEXT = re.compile(
    rf"\s*\*?\s*,\s*(?:ONLY\s+)?(?:(?P<schema>{_IDENTIFIER})\s*\.\s*)?(?P<name>{_IDENTIFIER})",
    re.IGNORECASE,
)
_CASCADE = re.compile(r"[^;]*\bCASCADE\b", re.IGNORECASE)


class Written(NamedTuple):
    """What a SQL text writes."""

    #: Entities whose tables it names.
    entities: frozenset[str] = frozenset()
    #: Other entities whose rows the database may change along with the deleted ones.
    reached: frozenset[str] = frozenset()
    #: The rows that its cursor counts are the written ones: not if it has several writes, or one in a CTE.
    is_counted: bool = False


NOTHING = Written()


class SqlTexts:
    """Tells which registered tables SQL texts write to, and remembers it.

    :param in_ctes: look only at what their CTEs write.
    """

    def __init__(self, tables: RegisteredTables, *, in_ctes: bool = False) -> None:
        self._tables = tables
        self._in_ctes = in_ctes
        self._known: dict[str, Written] = {}
        self._state = -1

    def written(self, text: str) -> Written:
        """Return what a statement writes."""
        if self._state != self._tables.state:
            self._known.clear()
        known = self._known.get(text)
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[text] = self._judge(text)
            self._state = self._tables.state
        return known

    def _judge(self, text: str) -> Written:
        if _HAS_BODY.match(text):
            return NOTHING
        statements = _NOISE.sub(" ", text).split(";")
        plain = ";".join("" if _DEFINES.match(each) else each for each in statements)
        entities: set[str] = set()
        reached: set[str] = set()
        outermost: list[bool] = []
        for found in _WRITE.finditer(plain):
            is_outermost = _is_outermost(plain[: found.start()])
            if is_outermost and self._in_ctes:
                continue
            written, along = self._tables_of(plain, found)
            entities |= written
            reached |= along
            if written or along:
                outermost.append(is_outermost)
        if not outermost:
            return NOTHING
        return Written(frozenset(entities), frozenset(reached - entities), outermost == [True])

    def _tables_of(self, plain: str, found: re.Match[str]) -> tuple[set[str], set[str]]:
        """Return the entities whose tables a write names, and those that the database may change along with them."""
        written: set[str] = set()
        along: set[str] = set()
        truncates = found["truncate"] is not None
        cascades = truncates and _CASCADE.match(plain, found.end()) is not None
        named: re.Match[str] | None = found
        while named is not None:
            schema, name = _plain(named["schema"]), _plain(named["name"]) or ""
            written |= self._tables.entities(schema, name)
            if cascades or found["delete"]:
                along |= self._tables.reached_from(schema, name, whatever_they_say=cascades)
            named = _NEXT.match(plain, named.end()) if truncates else None
        return written, along


def _is_outermost(before: str) -> bool:
    """Whether what follows a part of a text is in its first statement, and in no parentheses."""
    return ";" not in before and before.count("(") == before.count(")")


def _plain(identifier: str | None) -> str | None:
    if identifier is None or identifier[0] not in '"`[':
        return identifier
    return identifier[1:-1].replace('""', '"')
