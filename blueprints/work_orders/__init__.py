"""Work orders: the work to be done."""

from extensions import sync

from .models import WorkOrder
from .schemas import WorkOrderSchema

# After the alerts, which have priority 1 because of their QoS, and before the rest.
sync.register(
    WorkOrder, "work_orders", topic="work_orders", qos=1, schema=WorkOrderSchema, priority=2
)
