"""Operations on equipment."""

from __future__ import annotations

from blueprints.common.resource import Resource

from .models import Equipment
from .schemas import EquipmentSchema

equipment = Resource(
    Equipment,
    EquipmentSchema,
    "piece of equipment",
)
