"""Equipment: what is on board."""

from extensions import sync

from .models import Equipment
from .schemas import EquipmentSchema

sync.register(Equipment, "equipment", topic="equipment", qos=1, schema=EquipmentSchema)
