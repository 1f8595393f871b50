"""People and tokens. They belong to this machine and are never sent ashore."""

from __future__ import annotations

import unicodedata
from datetime import datetime

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from extensions.database import Base, UtcDateTime, new_id, utcnow


class User(Base):
    """A person who logs in."""

    __tablename__ = "access_users"
    __table_args__ = (Index("ix_access_users_key", "key", unique=True),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(80))
    #: The name as names are compared.
    key: Mapped[str] = mapped_column(String(240))
    #: crew, engineer or administrator.
    role: Mapped[str] = mapped_column(String(20))
    #: A hash with its salt and parameters.
    password: Mapped[str] = mapped_column(String(255))
    #: Raised by a change of the password, which ends all sessions.
    generation: Mapped[int] = mapped_column(default=1)
    disabled: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    seen_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Token(Base):
    """A program's credential; only its hash is stored."""

    __tablename__ = "access_tokens"
    __table_args__ = (Index("ix_access_tokens_hash", "hash", unique=True),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(80))
    #: SHA-256 of the token, which is random: it needs no salt.
    hash: Mapped[str] = mapped_column(String(64))
    #: Separated by spaces.
    scopes: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    created_by: Mapped[str] = mapped_column(String(100))
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    @property
    def is_valid(self) -> bool:
        """Whether it is accepted now."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > utcnow())


def key_of(name: str) -> str:
    """Return a name as names are compared: without regard to case, Unicode form and spaces around it."""
    return unicodedata.normalize("NFKC", name.strip()).casefold()
