"""Crew: who is on board."""

from extensions import sync

from .models import CrewMember
from .schemas import CrewSchema

sync.register(CrewMember, "crew", topic="crew", qos=1, schema=CrewSchema)
