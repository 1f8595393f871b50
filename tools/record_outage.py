"""Records an outage: plays `make run` with the broker stopped and started again, and draws what the terminal showed.

python -m tools.record_outage [FILE.svg]

The picture is an SVG that repeats itself after 20 seconds. Its lines are those of the run, at the times at which they
came, except that waiting was shortened.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tests.support.make_run import MakeRun, copy_to, create_work_order
from tests.support.waiting import free_port

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "outage.svg"
#: Seconds until it begins again.
LENGTH = 20.0
#: Pixels.
WIDTH, LINE, MARGIN, FONT = 960, 20, 16, 13
#: What is saved; the demo data is sent, too, and is not shown.
BEFORE = "Fuel filter clogged"
MEANWHILE = ("Bilge pump noisy", "Sight glass leaks")
_SHOWN = re.compile("|".join((r"The ship is at|messages:|the broker", BEFORE, *MEANWHILE)))
_STYLE = f"""
svg {{ background: #111827; font: {FONT}px ui-monospace, Consolas, monospace; }}
text {{ fill: #d1d5db; white-space: pre; }}
.typed {{ fill: #fbbf24; }}
.note {{ fill: #7dd3fc; }}
@media (prefers-reduced-motion: reduce) {{ text {{ animation: none !important; }} }}
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """A line of the picture, and the second at which it appears."""

    at: float
    text: str
    kind: str = ""


def play(run: MakeRun) -> list[Shown]:
    """Play an outage, and return what is to be shown."""
    shown = [Shown(0.3, "$ make run", "typed")]
    seen = 0

    def take(at: float) -> None:
        """Show the new lines of the terminal."""
        nonlocal seen
        new = [line.strip() for line in run.lines[seen:] if _SHOWN.search(line)]
        seen = len(run.lines)
        new = [line for line in new if line not in {each.text for each in shown}]
        shown.extend(Shown(at + number * 0.25, line[:118]) for number, line in enumerate(new))

    def note(at: float, text: str) -> None:
        shown.append(Shown(at, text, "note"))

    run.wait_ready()
    run.wait_for_line("b and Enter stops the broker")
    seen = next(n for n, line in enumerate(run.lines) if "The ship is at" in line)
    take(1.2)
    note(3.0, "# in the browser: a work order is saved")
    create_work_order(run.port, BEFORE)
    run.wait_for_line(BEFORE)
    take(3.5)
    shown.append(Shown(5.5, "b", "typed"))
    run.type("b\n")
    run.wait_for_line("the broker is stopped")
    take(6.0)
    note(8.0, "# the link is down; two more are saved, as fast as before")
    for reason in MEANWHILE:
        create_work_order(run.port, reason)
    shown.append(Shown(12.0, "b", "typed"))
    run.type("b\n")
    run.wait_for_line("the broker was started again")
    run.wait_for_line(MEANWHILE[-1])
    take(12.5)
    note(15.0, "# both are ashore, in order")
    return shown


def picture(lines: list[Shown]) -> str:
    """Return an SVG in which the lines appear one after the other, again and again."""
    style, body = [_STYLE], []
    for number, line in enumerate(lines):
        percent = line.at / LENGTH * 100
        frames = f"0%,{percent:.2f}%{{opacity:0}}{percent + 0.01:.2f}%,100%{{opacity:1}}"
        style.append(f"@keyframes l{number}{{{frames}}}")
        y = MARGIN + LINE * (number + 1) - 6
        body.append(
            f'<text x="{MARGIN}" y="{y}" class="{line.kind}" '
            f'style="animation:l{number} {LENGTH:.0f}s infinite">{escape(line.text)}</text>'
        )
    height = 2 * MARGIN + LINE * len(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">\n'
        "<title>An outage: what is saved without a broker is sent when it is back</title>\n"
        f"<style>{''.join(style)}</style>\n"
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#111827"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def main() -> int:
    """Record, and write the picture."""
    parser = argparse.ArgumentParser(prog="python -m tools.record_outage", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=PICTURE)
    place = parser.parse_args().file
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="arus-outage-") as folder:
        copy = copy_to(Path(folder) / "copy")
        with MakeRun(copy, {"PORT": str(free_port())}) as run:
            lines = play(run)
    place.write_text(picture(lines))
    print(f"{place}: {len(lines)} lines, recorded in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
