"""The tests' own rules: what a unit test may not load, and that no marker is forgotten."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.gunicorn_app import ROOT

pytestmark = pytest.mark.slow

_COLLECT = """
import sys
import pytest

assert pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", "tests/unit"]) == 0
print("browser" if "playwright" in sys.modules else "no browser")
"""


def test_unit_tests_load_no_browser() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _COLLECT], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "no browser"
