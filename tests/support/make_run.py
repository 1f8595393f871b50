"""`make run` in a fresh copy of the repository."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import venv
from pathlib import Path
from typing import Self

from tools.processes import Child

from .gunicorn_app import ROOT, clean_environment
from .http import request
from .lifecycle import Started
from .waiting import PATIENCE, eventually

#: what a copy needs to run; the virtual environment is shared
PARTS = (
    *("Makefile", "app.py", "arus", "blueprints", "extensions", "gunicorn.conf.py"),
    *("migrations", "requirements.lock", "tools", "wsgi.py"),
)


class MakeRun(Started):
    """`make run` in a fresh copy of the repository, so that its instance folder is a new one."""

    def __init__(self, copy: Path, settings: dict[str, str]) -> None:
        self.copy = copy
        self.port = int(settings["PORT"]) if settings["PORT"].isdecimal() else 0
        self.lines: list[str] = []
        self._env = clean_environment(**settings)
        self._grown = threading.Condition()
        #: a terminal of which this is the keyboard's end
        self._keyboard, self._terminal = pty.openpty()

    def type(self, text: str) -> None:
        """Type into the terminal."""
        os.write(self._keyboard, text.encode())

    def start(self) -> Self:
        self.make = Child(
            "make run",
            ["make", "--no-print-directory", "run"],
            cwd=self.copy,
            env=self._env,
            keyboard=self._terminal,
            output=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    @property
    def output(self) -> str:
        with self._grown:
            return "\n".join(self.lines)

    def wait_for_line(self, pattern: str, timeout: float = 60) -> str:
        """The first line that matches, printed or still to come."""

        def found() -> list[str]:
            return [line for line in self.lines if re.search(pattern, line)]

        with self._grown:
            ended = self._grown.wait_for(
                lambda: found() or not self._reader.is_alive() or self._ended, timeout * PATIENCE
            )
            matches = found()
        assert matches, f"no line {pattern!r} ({'ended' if ended else 'timeout'}):\n{self.output}"
        return matches[0]

    def wait_ready(self) -> None:
        self.wait_for_line(r"The ship is at http://")

    def processes(self) -> dict[int, str]:
        """All processes that work in the copy: whatever this run started."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if (entry / "cwd").resolve() == self.copy or str(self.copy) in command:
                    found[int(entry.name)] = command
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # ended while we looked
        return found

    def pid_of(self, words: str) -> int:
        """The one process whose command holds `words` and that is the oldest of its kind."""

        def found() -> list[int]:
            processes = self.processes()
            pids = [pid for pid, command in processes.items() if words in command]
            assert pids, processes
            return pids

        # a process whose memory is locked by the kernel has no command for a moment
        return min(eventually(found, message=f"a process {words!r}"))

    def assert_nothing_left(self, timeout: float = 20) -> None:
        eventually(lambda: not self.processes(), timeout, message=f"all ended: {self.processes()}")

    def close(self) -> None:
        print(self.output[-8000:])
        self.make.send(signal.SIGKILL)
        self.make.wait(10)
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self._reader.join(10)
        self.make.kill()
        os.close(self._keyboard)
        os.close(self._terminal)

    _ended = False

    def _read(self) -> None:
        for line in self.make.stdout:
            with self._grown:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self._grown.notify_all()
        with self._grown:
            self._ended = True
            self._grown.notify_all()


def copy_to(copy: Path) -> Path:
    """Make a fresh copy of what a run needs, in a new folder."""
    copy.mkdir()
    for part in PARTS:
        place = ROOT / part
        if place.is_dir():
            shutil.copytree(place, copy / part)
        else:
            shutil.copy(place, copy / part)
    _share_virtual_environment(copy)
    return copy


def create_work_order(port: int, reason: str) -> None:
    """Create a work order for the first piece of equipment."""
    equipment = request(port, "GET", "/api/equipment?limit=1").json["items"][0]
    answer = request(
        port, "POST", "/api/work-orders", {"equipmentId": equipment["id"], "reason": reason}
    )
    assert answer.status == 201, answer.text


def _share_virtual_environment(copy: Path) -> None:
    """A `.venv` that finds this one's packages, with the stamps that say it is up to date."""
    venv.create(copy / ".venv", symlinks=True)
    packages = Path(sysconfig.get_path("purelib"))
    place = copy / ".venv" / packages.relative_to(sys.prefix)
    (place / "shared.pth").write_text(f"{packages}\n")
    digest = hashlib.sha256((copy / "requirements.lock").read_bytes()).hexdigest()
    (copy / ".venv" / ".made-in").write_text(f"{copy}\n")
    (copy / ".venv" / ".installed-requirements.lock").write_text(f"{digest}  - {copy}\n")
