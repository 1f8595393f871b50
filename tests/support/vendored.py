"""Files of others that the tests carry."""

from __future__ import annotations

from pathlib import Path

VENDOR = Path(__file__).resolve().parents[1] / "vendor"
AXE = VENDOR / "axe-4.14.1.min.js"
