"""aedes, a broker for Node.js."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.support.broker import ROOT, Broker, find_program

PROGRAM = ROOT / "tests" / "interop" / "broker.mjs"


class Aedes(Broker):
    """aedes as its README starts it; it keeps everything in memory."""

    NAME = "aedes"

    def command(self) -> Sequence[str | Path]:
        installed = PROGRAM.with_name("node_modules") / "aedes"
        assert installed.is_dir(), "aedes is not installed: run tools/install_test_servers"
        return [find_program("node"), PROGRAM, str(self.port)]
