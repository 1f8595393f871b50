"""Idempotency keys: a POST that is sent again does not create a second row."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import orjson
from flask import g, request
from msgspec import Struct
from sqlalchemy import Index, String, delete, insert, select
from sqlalchemy.orm import Mapped, mapped_column

from extensions import db
from extensions.api import InvalidError, ProblemError
from extensions.database import Base, UtcDateTime, utcnow

HEADER = "Idempotency-Key"
KEPT = timedelta(days=7)
PRUNED_AT_ONCE = 100


class IdempotencyRecord(Base):
    """The row that a key has created."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    route: Mapped[str] = mapped_column(String(200), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    row_id: Mapped[str] = mapped_column(String(36))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


class IdempotencyKey(Struct, frozen=True):
    """A client's key for one request, with a hash of the request."""

    key: str
    route: str
    request_hash: str

    @classmethod
    def of(cls, key: str, route: str, data: Mapping[str, Any]) -> IdempotencyKey:
        """Return the `IdempotencyKey` of a client's request to `route` with `data`."""
        if not 0 < len(key) <= 200 or not key.isprintable():
            raise InvalidError({HEADER: ["1 to 200 printable characters are expected."]})
        if actor := g.get("actor", ""):
            # A key is its caller's own: nobody learns of another's row by guessing it.
            route = f"{route} {hashlib.sha256(actor.encode()).hexdigest()[:32]}"
        return cls(key, route, _digest(data))

    @classmethod
    def of_all(cls, key: str, route: str, data: Mapping[str, Any]) -> IdempotencyKey:
        """Return a key of the server's own: whoever asks, there is one row.

        :param route: no path, so that no client's key is the same.
        """
        return cls(key, route, _digest(data))

    @classmethod
    def from_request(cls, data: Mapping[str, Any]) -> IdempotencyKey | None:
        """Return the key of the current request, if it has one."""
        key = request.headers.get(HEADER)
        return None if key is None else cls.of(key, request.path, data)

    def created(self) -> str | None:
        """Return the id of the row that an earlier, identical request created, if there is one.

        :raises ProblemError: the key was used for a different request.
        """
        query = select(IdempotencyRecord.request_hash, IdempotencyRecord.row_id).where(
            IdempotencyRecord.key == self.key, IdempotencyRecord.route == self.route
        )
        record = db.session.execute(query).first()
        if record is None:
            return None
        if record.request_hash != self.request_hash:
            raise ProblemError(422, f"This {HEADER} was used before, with another body.")
        return str(record.row_id)

    def record(self, row_id: str) -> None:
        """Record, in the current transaction, that this request creates `row_id`.

        :raises sqlalchemy.exc.IntegrityError: an identical request did so at the same time.
        """
        _prune()
        db.session.execute(
            insert(IdempotencyRecord).values(
                key=self.key, route=self.route, request_hash=self.request_hash, row_id=row_id
            )
        )


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(data, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _prune() -> None:
    """Delete some expired records; skip those that another worker is deleting, so as not to wait."""
    table = IdempotencyRecord
    expired = (
        select(table.key, table.route)
        .where(table.created_at < utcnow() - KEPT)
        .order_by(table.created_at)
        .limit(PRUNED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    # Read first: a DELETE takes SQLite's write lock even if it matches no row.
    for key, route in db.session.execute(expired).all():
        db.session.execute(delete(table).where(table.key == key, table.route == route))
