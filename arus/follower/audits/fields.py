"""The fields over which a vessel's rows are compared: those that both sides have.

While a fleet is upgraded, the tables aboard and here differ. The hash of a received row is made over the fields that
this side has (`arus.follower.rows.Copy.fields`), so fields that only the vessel has make no difference. For the same
reason a digest over all of the vessel's fields is of no use then: one over the common fields is requested. When the
common fields change, the hashes of the rows are made again from the tables: rows that are equal are not sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import orjson
from msgspec import UNSET, Struct
from msgspec.structs import replace
from sqlalchemy import Connection

from arus.audit.contents import Context, Fields, some_rows
from arus.database import transaction
from arus.follower import sql
from arus.follower.rows import Copy
from arus.follower.saved_values import saved_difference
from arus.follower.sql.build import Some, execute_for
from arus.logs import get_logger
from arus.protocol.digests import BUCKETS
from arus.protocol.encoding import encode
from arus.protocol.messages import MAX_NAMED, Digest, EntityDigest, FieldDifference
from arus.protocol.times import MAX_TIME
from arus.registry import MAX_TOPIC

from .texts import word

logger = get_logger(__name__)

#: Rows that are hashed in one transaction.
CHUNK = 200


class Usable(Struct, frozen=True):
    """A vessel's digest of a table that can be compared with this side's."""

    #: Over which the digest is made.
    fields: Fields
    buckets: tuple[str, ...]
    count: int


class _Agreed(Struct, frozen=True):
    fields: Fields
    difference: FieldDifference | None = None


class ComparedFields:
    """What is known of the vessels' fields, and over which of them the records' hashes are made.

    :param connection: the loop's own.
    :param copies: the tables, by entity.
    :param vessels: ids of the vessels whose fields are read; None for all.
    """

    def __init__(
        self, connection: Connection, copies: Mapping[str, Copy], vessels: Some = None
    ) -> None:
        self._connection = connection
        self._copies = copies
        found = execute_for(
            connection, sql.comparison.COMPARED, sql.comparison.COMPARED_OF, vessels
        )
        self._agreed = {
            (row.vessel_id, row.entity): _Agreed(_read_fields(row.fields), _difference(row))
            for row in found
        }

    def of(self, vessel_id: str, entity: str) -> Fields:
        """Return the fields over which the hashes of a vessel's records are made."""
        agreed = self._agreed.get((vessel_id, entity))
        return self._copies[entity].fields if agreed is None else agreed.fields

    def difference(self, vessel_id: str, entity: str) -> FieldDifference | None:
        """Return what one side lacks of a vessel's table; None if nothing."""
        agreed = self._agreed.get((vessel_id, entity))
        return None if agreed is None else agreed.difference

    def wants_hashes(self, vessel_id: str, entity: str, fields: Fields) -> bool:
        """Whether the records' hashes are made over other fields than these."""
        agreed = self._agreed.get((vessel_id, entity))
        return agreed is not None and agreed.fields != fields

    def forget(self, vessel_id: str) -> None:
        """Forget a vessel that is not known any more."""
        for entity in self._copies:
            self._agreed.pop((vessel_id, entity), None)

    def agree(self, vessel_id: str, entity: str, fields: Fields, told: EntityDigest) -> None:
        """Note the fields over which a vessel's rows are compared, and what one side lacks.

        Must not be called in a transaction.
        """
        difference = _compared(self._copies[entity], told)
        agreed = _Agreed(fields, difference)
        before = self._agreed.get((vessel_id, entity))
        if agreed == before:
            return
        self._agreed[vessel_id, entity] = agreed
        if difference != (before.difference if before else None):
            _log(vessel_id, entity, difference)
        with transaction(self._connection):
            self._connection.execute(
                sql.comparison.SAVE_COMPARED,
                {
                    "vessel_id": vessel_id,
                    "entity": entity,
                    "fields": None if fields is None else orjson.dumps(sorted(fields)).decode(),
                    "difference": None if difference is None else encode(difference).decode(),
                },
            )


def usable(copy: Copy, told: EntityDigest) -> Usable | None:
    """Return the part of a vessel's digest that can be compared; None if one over other fields is needed."""
    own, theirs = copy.fields, told.known_fields
    if own is None or theirs is None:
        return Usable(own, told.buckets, told.count)
    common = own & theirs
    if common == theirs:
        return Usable(common, told.buckets, told.count)
    part = told.over(common)
    return None if part is None else Usable(common, part.buckets, told.count)


def needed_of(digest: Digest, copies: Mapping[str, Copy]) -> Digest:
    """Return a digest with what is compared here alone: it is kept in memory, and anyone can invent vessels and fill it."""
    entities: dict[str, EntityDigest] = {}
    for name, told in digest.entities.items():
        copy = copies.get(name)
        if copy is not None:
            own, theirs = copy.fields, told.known_fields
            part = None if own is None or theirs is None else told.over(own & theirs)
            entities[name] = replace(
                told,
                topic=told.topic[:MAX_TOPIC],
                digest="",
                buckets=_buckets(told.buckets),
                partial=(replace(part, digest="", buckets=_buckets(part.buckets)),)
                if part
                else UNSET,
            )
        elif told.count and len(entities) < len(copies) + MAX_NAMED:
            shown = word(name)
            entities["?" if shown in copies else shown] = EntityDigest(
                topic="", last_seq=0, count=told.count, buckets=()
            )
    return replace(digest, timestamp=digest.timestamp[:MAX_TIME], entities=entities)


def _buckets(told: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(one[:16] for one in told) if len(told) == BUCKETS else ()


def common_fields(copy: Copy, told: EntityDigest) -> tuple[str, ...]:
    """Return the fields that both sides have, in order."""
    return tuple(sorted((copy.fields or frozenset()) & (told.known_fields or frozenset())))


def _compared(copy: Copy, told: EntityDigest) -> FieldDifference | None:
    own, theirs = copy.fields, told.known_fields
    if own is None or theirs is None or own == theirs:
        return None
    missing = own - theirs
    return FieldDifference(
        missing_here=_names(theirs - own),
        missing_aboard=_names(missing),
        needed=_names(missing & copy.needed),
    )


def _names(fields: Iterable[str]) -> tuple[str, ...]:
    return tuple(word(name) for name in sorted(fields))[:MAX_NAMED]


def told_difference(difference: FieldDifference) -> str:
    """Return what one side lacks, for a person."""
    parts = []
    if difference.missing_here:
        parts.append(f"not stored here: {', '.join(difference.missing_here)}")
    if difference.missing_aboard:
        parts.append(f"not sent by the vessel: {', '.join(difference.missing_aboard)}")
    if difference.needed:
        parts.append(f"without {', '.join(difference.needed)} no row can be written here")
    return "; ".join(parts)


def _log(vessel_id: str, entity: str, difference: FieldDifference | None) -> None:
    if difference is None:
        logger.info(
            "[MQTT Reliable Sync] %s of %s has the same fields on both sides", entity, vessel_id
        )
        return
    logger.log(
        logging.ERROR if difference.needed else logging.WARNING,
        "[MQTT Reliable Sync] %s of %s is compared by the fields that both sides have; %s",
        entity,
        vessel_id,
        told_difference(difference),
    )


class Rehashing:
    """Makes the hashes of a vessel's records again from its rows in the table, a chunk at a time.

    Whether the rows are as the vessel has them is not decided here: the next digest tells.

    :param fields: over which they are made.
    """

    def __init__(self, copy: Copy, vessel_id: str, fields: Fields, context: Context) -> None:
        self.entity = copy.registration.entity
        self.fields = fields
        self._copy = copy
        self._vessel_id = vessel_id
        self._context = context
        self._after = ""

    def step(self, connection: Connection) -> bool:
        """Process a chunk in a transaction of its own; return whether there are more."""
        wanted = {"vessel_id": self._vessel_id, "entity": self.entity}
        bounds = {"after": self._after, "limit": CHUNK}
        page = connection.execute(sql.comparison.OWN, {**wanted, **bounds}).all()
        keys = [self._copy.key_of(known.row_id) for known in page]
        there = some_rows(connection, self._copy.registration, self._context, keys)
        rows = {row.row_id: row for row in there}
        changed = [
            {**wanted, "row_id": known.row_id, "before": known.hash, "hash": made}
            for known in page
            if (row := rows.get(known.row_id)) is not None
            and (made := row.hash(self.fields)) not in {known.hash, ""}
        ]
        if changed:
            with transaction(connection):
                connection.execute(sql.comparison.HASH_AGAIN, changed)
        if page:
            self._after = page[-1].row_id
        return len(page) == CHUNK


def _read_fields(saved: str | None) -> Fields:
    return None if saved is None else frozenset(orjson.loads(saved))


def _difference(row: object) -> FieldDifference | None:
    saved = getattr(row, "difference", None)
    return None if saved is None else saved_difference(saved)
