"""The verdict of an audit: what is published in the watermark, shown to people, and logged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from arus.protocol.digests import bucket_of
from arus.protocol.messages import MAX_NAMED, Comparison, Digest, Verdict
from arus.protocol.times import iso, now_ms

from .case import Table
from .texts import reason, word

#: Entities in a verdict.
_MAX_ENTITIES = 100


def verdict_on(digest: Digest, tables: Mapping[str, Table]) -> Verdict:
    """Return the verdict on a copy.

    :param tables: the comparisons of the entities that are followed.
    """
    compared = {entity: _comparison(table) for entity, table in tables.items()}
    # The vessel has rows of these that are not here at all.
    others = [
        word(entity)
        for entity, told in digest.entities.items()
        if entity not in tables and told.count
    ]
    told = {**dict.fromkeys(others, Comparison(equal=False, absent="here")), **compared}
    # Those that are not equal are named first.
    named = sorted(told.items(), key=lambda one: one[1].equal)
    return Verdict(
        seq=digest.seq,
        timestamp=iso(now_ms()),
        equal=not others and all(one.equal for one in compared.values()),
        entities=dict(named[:_MAX_ENTITIES]),
    )


def _comparison(table: Table) -> Comparison:
    found = table.found
    named = [*table.wrong, *found.held_by, *found.unapplied, *filter(None, table.refused)]
    buckets = table.buckets | {bucket_of(row_id) for row_id in named}
    return Comparison(
        equal=table.equal,
        buckets=tuple(sorted(buckets)),
        rows=names(named),
        held_by=_told(found.held_by),
        claimed_by=_told(found.claimed_by),
        unapplied=_told(found.unapplied),
        refused=_told(table.refused),
        fields=UNSET if table.difference is None else table.difference,
        absent="aboard" if table.absent else UNSET,
    )


def names(row_ids: Iterable[str]) -> tuple[str, ...]:
    """Return the ids that a verdict names."""
    return tuple(islice(dict.fromkeys(word(row_id) for row_id in row_ids), MAX_NAMED))


def _told(texts: Mapping[str, str]) -> dict[str, str] | UnsetType:
    if not texts:
        return UNSET
    some = islice(texts.items(), MAX_NAMED)
    return {row_id and word(row_id): reason(text) for row_id, text in some}


def with_repaired(verdict: Verdict, repaired: Mapping[str, Iterable[str]]) -> Verdict:
    """Return a verdict that also names the rows that its repair has changed."""
    entities = dict(verdict.entities)
    for entity, row_ids in repaired.items():
        if entity in entities:
            told = entities[entity]
            entities[entity] = replace(told, rows=names([*told.rows, *sorted(row_ids)]))
    return replace(verdict, entities=entities)


def lines(vessel_id: str, digest: Digest, tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield the lines to log about a vessel's tables that are not equal, or that other vessels claim."""
    for entity, table in tables.items():
        of = f"{entity} of {vessel_id}"
        if table.buckets:
            rows = ", ".join(names(table.wrong)) or "not known yet"
            yield (
                f"{of} differs at seq {digest.seq} in {len(table.buckets)} of 64 buckets; rows: {rows}"
            )
        if table.absent and table.buckets:
            yield f"{of}: the vessel has no entity {entity}, but rows here belong to it"
        found = table.found
        yield from _named(found.held_by, f"of {of} belong to other vessels here", "held by")
        yield from _named(
            found.claimed_by, f"of {of} are sent by other vessels too", "also sent by"
        )
        yield from _named(found.unapplied, f"of {of} do not show the vessel's state", "")
        yield from _named(table.refused, f"of {of} can't be read or written here", "")
    for entity, told in digest.entities.items():
        if entity not in tables and told.count:
            yield f"{told.count} rows of {word(entity)} of {vessel_id} are not copied: no such entity here"


def _named(texts: Mapping[str, str], what: str, how: str) -> Iterator[str]:
    if texts:
        some = islice(texts.items(), MAX_NAMED)
        rows = ", ".join(f"{word(row)} ({reason(f'{how} {text}')})" for row, text in some)
        yield f"{len(texts)} rows {what}: {rows}"
