"""The running hours of equipment as they were entered: each change of them is kept, in the same transaction.

The readings stay aboard; what goes ashore is the row's change.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import ForeignKey, Index, Integer, event, inspect, select
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from extensions import db
from extensions.database import Base, UtcDateTime, utcnow

from .models import Equipment


class HoursReading(Base):
    """The running hours of a piece of equipment at a time."""

    __tablename__ = "equipment_hours"
    __table_args__ = (Index("ix_equipment_hours_equipment_id", "equipment_id", "id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    equipment_id: Mapped[str] = mapped_column(ForeignKey("equipment.id", ondelete="CASCADE"))
    hours: Mapped[float]
    read_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    #: So that the equipment is inserted first.
    equipment: Mapped[Equipment] = relationship()


class Reading(Struct, frozen=True):
    """A reading, and the hours a day since the one before it; None if there is none, or it was not lower."""

    hours: float
    read_at: datetime
    a_day: float | None


def readings(equipment_id: str, most: int) -> list[Reading]:
    """Return the latest readings, newest first."""
    query = (
        select(HoursReading)
        .where(HoursReading.equipment_id == equipment_id)
        .order_by(HoursReading.id.desc())
        .limit(most + 1)
    )
    found: Sequence[HoursReading] = db.session.scalars(query).all()
    before: list[HoursReading | None] = [*found, None][1:]
    pairs = zip(found, before, strict=True)
    return [Reading(each.hours, each.read_at, _a_day(each, prior)) for each, prior in pairs][:most]


def _a_day(reading: HoursReading, before: HoursReading | None) -> float | None:
    if before is None or reading.hours < before.hours or reading.read_at <= before.read_at:
        return None
    days = (reading.read_at - before.read_at).total_seconds() / 86_400
    hours = (reading.hours - before.hours) / days
    return (
        round(hours, 1) if hours <= 24 else None
    )  # more: it was entered late, or the counter replaced


def _keep(session: Session, _context: Any, _instances: Any) -> None:
    """Keep the running hours that a flush writes."""
    for row in [*session.new, *session.dirty]:
        if (
            isinstance(row, Equipment)
            and row.running_hours is not None
            and inspect(row).attrs["running_hours"].history.has_changes()
        ):
            session.add(HoursReading(equipment=row, hours=row.running_hours))


event.listen(Session, "before_flush", _keep)
