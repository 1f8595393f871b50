"""Operations on the crew."""

from __future__ import annotations

from blueprints.common.resource import Resource

from .models import CrewMember
from .schemas import CrewSchema

crew = Resource(CrewMember, CrewSchema, "member of the crew")
