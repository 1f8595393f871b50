"""What can be asked of the fleet: the API describes it also where there is none, without loading what answers it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

#: Vessels on a page: the default and the maximum.
DEFAULT_LIMIT = 50
MAX_LIMIT = 200
#: Characters of a search.
MAX_SEARCH = 64
#: Names of filters, each true or false: what a vessel is, or has.
FILTERS = ("online", "equal", "audited", "behind", "refused", "held", "fields_differ")

Order = Literal["vessel_id", "last_heard", "behind"]


class FleetQuery(Struct, frozen=True):
    """Which vessels are asked for, and in which order."""

    #: A part of the id, in upper or lower case.
    q: str = ""
    #: Filters by their name in `FILTERS`.
    filters: Mapping[str, bool] | None = None
    order: Order = "vessel_id"
    limit: int = DEFAULT_LIMIT
    #: `next` of the page before.
    cursor: str | None = None


class InvalidCursorError(ValueError):
    """A text is no cursor of this list."""
