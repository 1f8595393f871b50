"""Maintenance: schedules and their due dates."""

from extensions import sync

from .models import MaintenanceSchedule
from .schemas import MaintenanceScheduleSchema

sync.register(
    MaintenanceSchedule,
    "maintenance_schedules",
    topic="maintenance",
    qos=1,
    schema=MaintenanceScheduleSchema,
)
