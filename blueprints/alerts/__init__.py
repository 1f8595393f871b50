"""Alerts: reports from the sensors."""

from extensions import sync

from .models import Alert
from .schemas import AlertSchema

sync.register(Alert, "alerts", topic="alerts", qos=2, schema=AlertSchema)
