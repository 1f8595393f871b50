"""Peers not written in Python, pinned in package-lock.json."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from bench.backlog import run_json

_PLACE = Path(__file__).resolve().parent


def mqtt_js(*arguments: str) -> dict[str, Any] | None:
    """Run `drain.mjs` and return what it prints; without arguments an empty result; None if there is no Node.js."""
    if not _installed():
        return None
    return run_json(["node", str(_PLACE / "drain.mjs"), *arguments]) if arguments else {}


@cache
def _installed() -> bool:
    """Install the packages of the lock file if there is npm."""
    if shutil.which("npm") is None:
        return False
    if not (_PLACE / "node_modules" / "mqtt").exists():
        subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"],
            cwd=_PLACE,
            check=True,
            timeout=300,
        )
    return True
