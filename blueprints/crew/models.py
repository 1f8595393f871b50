"""The crew table."""

from __future__ import annotations

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from extensions.database import list_indexes
from extensions.text_keys import SearchedRow, attach_triggers, key_of, search_indexes


class CrewMember(SearchedRow):
    """A member of the crew."""

    __tablename__ = "crew"
    __table_args__ = (
        *list_indexes("crew", "active", "on_duty"),
        *search_indexes("crew", "name", "rank", "department"),
    )
    searched = ("name", "rank", "department", "email", "phone", "notes")

    name: Mapped[str] = mapped_column(String(200))
    rank: Mapped[str | None] = mapped_column(String(100))
    department: Mapped[str | None] = mapped_column(String(100))
    email: Mapped[str | None] = mapped_column(String(254))
    phone: Mapped[str | None] = mapped_column(String(50))
    active: Mapped[bool] = mapped_column(default=True)
    on_duty: Mapped[bool] = mapped_column(default=False)
    notes: Mapped[str | None] = mapped_column(Text)
    name_key: Mapped[str | None] = key_of("name")
    rank_key: Mapped[str | None] = key_of("rank")
    department_key: Mapped[str | None] = key_of("department")


attach_triggers(CrewMember)
