"""Measures the table of docs/brokers.md: .venv/bin/python -m tests.brokers [--write] [WORD...]

Runs the main job with each broker, or with those whose name contains one of the words, one after the other, and
prints a Markdown table; with `--write` it also replaces the table in docs/brokers.md. A broker that fails has a row that
says so; the exit code is 1 then.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.brokers.catalogue import CASES, Case
from tests.brokers.main_job import MainJob, Measured, migrated_database
from tests.brokers.table import table
from tests.support.broker import ROOT

PAGE = ROOT / "docs" / "brokers.md"
#: The lines around the table.
BEGIN = "<!-- measured by python -m tests.brokers --write -->"
END = "<!-- end of what was measured -->"


def measure(case: Case, directory: Path, template: Path) -> Measured | str:
    """Run the main job with one broker; return what it has shown, or why it has failed."""
    began = time.monotonic()
    directory.mkdir()
    print(f"{case}: ", end="", file=sys.stderr, flush=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # what is shown for a failed test
            found: Measured | str = MainJob(case, directory, template).run()
    except Exception as error:  # noqa: BLE001  # told in the table, and the next broker has its turn
        found = str(error).split("; last:")[0].splitlines()[0][:200]
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def write(measured: str) -> None:
    """Replace the table in docs/brokers.md."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{measured}\n{END}{after}")


def main(words: Sequence[str]) -> int:
    """Measure, and print the table."""
    wanted = [word for word in words if word != "--write"]
    cases = [case for case in CASES if not wanted or any(word in case.name for word in wanted)]
    directory = Path(tempfile.mkdtemp(prefix="arus-brokers-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is taken down
    results: list[tuple[Case, Measured | str]] = []
    try:
        template = migrated_database(directory)
        for number, case in enumerate(cases):
            results.append((case, measure(case, directory / str(number), template)))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        print(measured := table(results))  # also what there is after Ctrl-C
        if "--write" in words:
            write(measured)
    return int(any(isinstance(measured, str) for _, measured in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
