"""Digests of the records of rows (`arus_row`), at present and at recent numbers."""

from __future__ import annotations

from collections import deque

from msgspec import Struct, field
from sqlalchemy import Connection

from arus.follower import sql
from arus.follower.store import Known
from arus.protocol.digests import SetDigest, bucket_of, row_token

#: Changes of an entity that can be undone.
MAX_UNDO = 50_000

_Key = tuple[str, str, str]


class Ledger:
    """Digests of the row records of each vessel and entity, at present and at recent numbers.

    :param connection: used to read the records, outside of any transaction.
    """

    def __init__(self, connection: Connection, *, most: int = MAX_UNDO) -> None:
        self._connection = connection
        self._most = most
        #: By vessel and entity.
        self._accounts: dict[str, dict[str, _Account]] = {}

    def learnt(self, key: _Key, before: Known | None, after: Known | None, seq: int) -> None:
        """Note that the record of a row has changed.

        :param key: vessel, entity and row id.
        :param seq: the number of the change that caused it.
        """
        account = self._accounts.get(key[0], {}).get(key[1])
        if account is None:
            return
        tokens, count = 0, 0
        for known, one in ((before, -1), (after, 1)):
            if known is not None and not known.deleted:
                tokens ^= row_token(key[2], known.version, known.hash)
                count += one
        if tokens or count:
            account.note(seq, bucket_of(key[2]), tokens, count, self._most)

    def forget(self, vessel_id: str, entity: str | None = None) -> None:
        """Discard digests, to be read again when they are needed: records were changed in another way."""
        if entity is None:
            self._accounts.pop(vessel_id, None)
        else:
            self._accounts.get(vessel_id, {}).pop(entity, None)

    def open(self, vessel_id: str, entity: str) -> None:
        """Start keeping the digests of an entity."""
        accounts = self._accounts.setdefault(vessel_id, {})
        if entity not in accounts:
            accounts[entity] = self._read(vessel_id, entity)

    def at(self, vessel_id: str, entity: str, seq: int) -> SetDigest | None:
        """Return an entity's digest at a number; None if that is too long ago."""
        self.open(vessel_id, entity)
        return self._accounts[vessel_id][entity].at(seq)

    def _read(self, vessel_id: str, entity: str) -> _Account:
        wanted = {"vessel_id": vessel_id, "entity": entity}
        digest = SetDigest()
        for row in self._connection.execute(sql.comparison.ROWS, wanted):
            digest.toggle(row.bucket, row_token(row.row_id, row.version, row.hash), 1)
        return _Account(digest, self._connection.execute(sql.comparison.LAST, wanted).scalar() or 0)


class _Account(Struct):
    """The digest of one entity of one vessel."""

    digest: SetDigest
    #: The lowest number at which the digest can be computed.
    floor: int
    #: Number, bucket, tokens and count of each change since, oldest first.
    changes: deque[tuple[int, int, int, int]] = field(default_factory=deque)

    def note(self, seq: int, bucket: int, tokens: int, count: int, most: int) -> None:
        self.digest.toggle(bucket, tokens, count)
        self.changes.append((seq, bucket, tokens, count))
        if len(self.changes) > most:
            self.floor = max(self.floor, self.changes.popleft()[0])

    def at(self, seq: int) -> SetDigest | None:
        if seq < self.floor:
            return None
        digest = self.digest.copy()
        for changed, bucket, tokens, count in self.changes:
            if changed > seq:
                digest.toggle(bucket, tokens, -count)
        return digest
