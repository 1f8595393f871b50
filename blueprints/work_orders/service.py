"""Operations on work orders."""

from __future__ import annotations

from arus.database import insert_of
from blueprints.access.rights import Right, has_right
from blueprints.common.resource import Resource
from blueprints.maintenance.following import free_schedules
from extensions import db
from extensions.api import Errors, ProblemError
from extensions.database import utcnow

from .models import WorkOrder, WorkOrderCounter
from .schemas import WorkOrderSchema


def settle(order: WorkOrder) -> Errors:
    """Check the order of the planned dates, and who says that scheduled work is over.

    :raises ProblemError: a schedule would follow the order, and its sender may not change schedules.
    """
    is_over = order.status in WorkOrder.OVER
    if order.schedule_id and is_over and not has_right(Right.WRITE):
        raise ProblemError(
            403, f"Only who may change schedules says that scheduled work is {order.status}."
        )
    start, end = order.planned_start_date, order.planned_end_date
    if start and end and end < start:
        return {"plannedEndDate": ["Before plannedStartDate."]}
    return {}


def number(order: WorkOrder) -> None:
    """Assign the next number of the year to `order`.

    The counter's row stays locked until the transaction ends, so that numbers have no gaps.
    """
    year = utcnow().year
    insert = insert_of(db.engine.dialect)(WorkOrderCounter).values(year=year, last=1)
    upsert = insert.on_conflict_do_update(
        index_elements=["year"], set_={"last": WorkOrderCounter.last + 1}
    )
    last = db.session.execute(upsert.returning(WorkOrderCounter.last)).scalar_one()
    order.wo_number = f"WO-{year}-{last:04d}"


def leave_schedules(order: WorkOrder) -> None:
    """Free the schedules for which `order` was created."""
    free_schedules(db.session(), order)


work_orders = Resource(
    WorkOrder,
    WorkOrderSchema,
    "work order",
    settle=settle,
    on_create=number,
    on_delete=leave_schedules,
)
