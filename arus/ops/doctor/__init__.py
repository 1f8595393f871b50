"""Checks of a vessel's settings, database, broker, clock and disk; each problem comes with its fix.

`examine` runs the checks one by one and yields their findings. It changes nothing.
"""

from .examination import examine
from .finding import Finding, Verdict
from .vessel import Vessel

__all__ = ["Finding", "Verdict", "Vessel", "examine"]
