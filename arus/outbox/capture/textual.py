"""Which tables a SQL text writes to: recognised by its words, as nothing else knows its rows."""

from __future__ import annotations

import re
from typing import NamedTuple

from .tables import RegisteredTables

#: Texts whose verdicts are remembered.
_MAX_KNOWN = 1_000

_NOISE = re.compile(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", re.DOTALL)
#: Statements that only define something: a trigger's body is no write.
_DEFINES = re.compile(r"\s*(CREATE|ALTER|DROP|COMMENT|GRANT|EXPLAIN|PRAGMA)\b", re.IGNORECASE)
_IDENTIFIER = r'(?:"(?:[^"]|"")+"|`[^`]+`|\[[^\]]+\]|\w+)'
_WRITE = re.compile(
    r"\b(?:INSERT\s+(?:OR\s+\w+\s+)?INTO|REPLACE\s+INTO|UPDATE(?:\s+OR\s+\w+)?|(?P<delete>DELETE\s+FROM)"
    r"|MERGE\s+INTO|TRUNCATE(?:\s+TABLE)?|COPY)(?:\s+ONLY)?\s+"
    rf"(?:(?P<schema>{_IDENTIFIER})\s*\.\s*)?(?P<name>{_IDENTIFIER})",
    re.IGNORECASE,
)


class Written(NamedTuple):
    """What a SQL text writes."""

    #: Entities whose tables it names.
    entities: frozenset[str] = frozenset()
    #: Other entities whose rows the database may change along with the deleted ones.
    reached: frozenset[str] = frozenset()


NOTHING = Written()


class SqlTexts:
    """Tells which registered tables SQL texts write to, and remembers it."""

    def __init__(self, tables: RegisteredTables) -> None:
        self._tables = tables
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
        if _DEFINES.match(text):
            return NOTHING
        entities: set[str] = set()
        reached: set[str] = set()
        for found in _WRITE.finditer(_NOISE.sub(" ", text)):
            schema, name = _plain(found["schema"]), _plain(found["name"]) or ""
            entities |= self._tables.entities(schema, name)
            if found["delete"]:
                reached |= self._tables.reached_from(schema, name)
        return (
            Written(frozenset(entities), frozenset(reached - entities))
            if entities or reached
            else NOTHING
        )


def _plain(identifier: str | None) -> str | None:
    if identifier is None or identifier[0] not in '"`[':
        return identifier
    return identifier[1:-1].replace('""', '"')
