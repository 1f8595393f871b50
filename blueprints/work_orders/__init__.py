"""Work orders: what is to be done."""

from extensions import sync

from .models import WorkOrder
from .schemas import WorkOrderSchema

sync.register(WorkOrder, "work_orders", topic="work_orders", qos=1, schema=WorkOrderSchema)
