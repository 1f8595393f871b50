"""A few child processes, and whatever ends the run: a signal, or the end of one of them."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tools.processes import Child


class RunFailedError(Exception):
    """What a person at a terminal must know, in one line."""


class StopRequested(Exception):  # noqa: N818 - not an error
    """Somebody asked us to stop."""


class Supervisor:
    """Starts children, hears of signals and of children's ends, and ends what it started."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._children: list[Child] = []
        #: signals, and children that have ended
        self._events: queue.SimpleQueue[signal.Signals | Child] = queue.SimpleQueue()

    def listen(self) -> None:
        """Take SIGINT, SIGTERM and SIGHUP as the wish to stop."""
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, lambda number, _frame: self._events.put(signal.Signals(number)))

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> Child:
        """Start a program that is to run until we stop it."""
        child = self._spawn(name, argv, env)
        self._children.append(child)
        return child

    def run(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> str:
        """Run a program to its end; its output.

        :raises RunFailedError: it failed; with its output.
        """
        child = self._spawn(name, argv, env, output=subprocess.PIPE)
        output: list[bytes] = []
        reader = threading.Thread(target=lambda: output.append(child.stdout.read()), daemon=True)
        reader.start()
        try:
            while child.returncode() is None:
                self.wait()
        finally:
            child.kill_group()
            reader.join()
            child.kill()
        text = b"".join(output).decode(errors="replace").strip()
        if child.returncode() != 0:
            raise RunFailedError(f"{name} failed:\n{text}")
        return text

    def wait_until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        """Return once `condition()` holds.

        :raises RunFailedError: a child ended before, or it took longer than `timeout` seconds.
        :raises StopRequested: we were asked to stop before.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise RunFailedError(f"not within {timeout:.0f} s: {what}")
            self.wait(0.05)

    def wait(self, timeout: float | None = None) -> None:
        """Return after `timeout` seconds in which nothing happened.

        :raises RunFailedError: a child ended.
        :raises StopRequested: we were asked to stop.
        """
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return
        if isinstance(event, Child):
            if event in self._children:
                self._children.remove(event)
                event.kill_group()
                raise RunFailedError(f"{event.name} ended by itself ({_ending(event.wait())})")
            return
        raise StopRequested

    def stop(self, child: Child, timeout: float = 12) -> None:
        """End a child, and kill it and its children when they don't end in time."""
        if child in self._children:
            self._children.remove(child)
            child.stop(timeout)
            child.kill_group()

    def stop_all(self) -> None:
        """End every child, the last one started first."""
        for child in reversed(self._children[:]):
            self.stop(child)

    def _spawn(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], output: int | None = None
    ) -> Child:
        # a group of its own: Ctrl-C reaches us alone, and we end things in order
        child = Child(name, argv, env=env, cwd=self._root, output=output, own_group=True)
        threading.Thread(target=self._report_end, args=(child,), daemon=True).start()
        return child

    def _report_end(self, child: Child) -> None:
        child.wait()
        self._events.put(child)


def _ending(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def environment(*layers: Mapping[str, str | None]) -> dict[str, str]:
    """The environment of this process over `layers`, an empty value counting as none."""
    merged: dict[str, str] = {}
    for layer in (*layers, os.environ):
        merged.update({name: value for name, value in layer.items() if value})
    return merged
