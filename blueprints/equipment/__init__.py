"""Equipment: the machinery on board."""

from extensions import sync

from . import hours  # noqa: F401  # for its listener
from .models import Equipment
from .schemas import EquipmentSchema

sync.register(Equipment, "equipment", topic="equipment", qos=1, schema=EquipmentSchema)
