"""Whom a schedule is assigned to: a member of the crew by id, and the name for clients that know no ids."""

from __future__ import annotations

from sqlalchemy import inspect, select
from sqlalchemy.orm.exc import StaleDataError

from blueprints.crew.models import CrewMember
from extensions import db, sync
from extensions.text_keys import complete_keys
from extensions.texts import sort_key
from extensions.upgrades import after_upgrade

from .models import MaintenanceSchedule

#: Schedules that are assigned in one transaction.
CHUNK = 200


def settle_assignment(schedule: MaintenanceSchedule) -> None:
    """Keep the two fields of a new or changed schedule consistent.

    Who writes an id gives the schedule that person's name as it is now. Who writes a name alone means the member of
    the crew with this name, if there is exactly one.
    """
    fields = inspect(schedule).attrs
    name_written = fields["assigned_to"].history.has_changes()
    if schedule.assigned_crew_id is not None and fields["assigned_crew_id"].history.has_changes():
        member = db.session.get(CrewMember, schedule.assigned_crew_id)
        if member is not None:  # else the reference is refused
            schedule.assigned_to = member.name
    elif fields["assigned_crew_id"].history.has_changes():
        if not name_written:
            schedule.assigned_to = None
    elif name_written:
        schedule.assigned_crew_id = only_member(schedule.assigned_to)


def only_member(name: str | None) -> str | None:
    """Return the id of the member of the crew with a name; None if there is none, or more than one."""
    if name is None:
        return None
    complete_keys(CrewMember)
    found = db.session.scalars(
        select(CrewMember.id).where(CrewMember.name_key == sort_key(name)).limit(2)
    ).all()
    return found[0] if len(found) == 1 else None


def assign_names() -> int:
    """Assign the schedules that have a name alone to the person with this name, and return how many were.

    Each is an ordinary change, and is sent ashore. Names that nobody or several people have are left as they are.
    Ashore nothing is done: the vessels' changes bring their ids.
    """
    if not sync.runtime().settings.local_mode:
        return 0
    complete_keys(CrewMember)
    schedule = MaintenanceSchedule
    last, assigned = "", 0
    while True:
        query = select(schedule).where(
            schedule.assigned_crew_id.is_(None), schedule.assigned_to.is_not(None)
        )
        rows = db.session.scalars(
            query.where(schedule.id > last).order_by(schedule.id).limit(CHUNK)
        ).all()
        if not rows:
            return assigned
        members = {name: only_member(name) for name in {row.assigned_to for row in rows}}
        known = [row for row in rows if members[row.assigned_to] is not None]
        end = rows[-1].id
        for row in known:
            row.assigned_crew_id = members[row.assigned_to]
        try:
            db.session.commit()
        except StaleDataError:  # somebody else has written one of them, perhaps another upgrade
            db.session.rollback()
            continue
        last, assigned = end, assigned + len(known)


after_upgrade(assign_names)
