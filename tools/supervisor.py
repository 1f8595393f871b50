"""Supervision of child processes; a run ends with a signal, or with the end of one of them."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tools.processes import Child


class RunFailedError(Exception):
    """A failure of the run, described in one line for the terminal."""


class StopRequested(Exception):  # noqa: N818 - not an error
    """The run was asked to stop."""


class Supervisor:
    """Starts children, is notified of signals and of the children's end, and stops what it started."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._children: list[Child] = []
        #: children whose end does not end the run
        self._spare: set[Child] = set()
        #: signals, children that have ended, and lines that were typed
        self._events: queue.SimpleQueue[signal.Signals | Child | str] = queue.SimpleQueue()

    def listen(self) -> None:
        """Handle SIGINT, SIGTERM and SIGHUP as requests to stop."""
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, lambda number, _frame: self._events.put(signal.Signals(number)))

    def listen_to(self, stream: TextIO) -> None:
        """Have `wait` return the lines of a stream from now on, without their ends."""

        def read() -> None:
            for line in stream:
                self._events.put(line.strip())

        threading.Thread(target=read, daemon=True).start()

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> Child:
        """Start a program that runs until it is stopped."""
        child = self._spawn(name, argv, env)
        self._children.append(child)
        return child

    def spare(self, child: Child) -> None:
        """Go on when a child ends: `wait` returns it."""
        self._spare.add(child)

    def run(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> str:
        """Run a program to its end and return its output.

        :raises RunFailedError: it failed; the message contains its output.
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

        :raises RunFailedError: a child ended before that, or it took longer than `timeout` seconds.
        :raises StopRequested: the run was asked to stop before that.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise RunFailedError(f"not within {timeout:.0f} s: {what}")
            self.wait(0.05)

    def wait(self, timeout: float | None = None) -> Child | str | None:
        """Wait for `timeout` seconds; return a typed line, or a spare child that has ended; else None.

        :raises RunFailedError: a child ended that is no spare one.
        :raises StopRequested: the run was asked to stop.
        """
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(event, signal.Signals):
            raise StopRequested
        if isinstance(event, str):
            return event
        if event not in self._children:
            return None  # it was stopped
        self._children.remove(event)
        event.kill_group()
        if event not in self._spare:
            raise RunFailedError(f"{event.name} ended by itself ({ending(event.wait())})")
        self._spare.remove(event)
        return event

    def stop(self, child: Child, timeout: float = 12) -> None:
        """Stop a child; kill it and its children if they do not end in time."""
        if child in self._children:
            self._children.remove(child)
            child.stop(timeout)
            child.kill_group()

    def stop_all(self) -> None:
        """Stop all children in reverse order of their start."""
        for child in reversed(self._children[:]):
            self.stop(child)

    def _spawn(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], output: int | None = None
    ) -> Child:
        # a separate process group: Ctrl-C reaches only this process, which stops the children in order
        child = Child(name, argv, env=env, cwd=self._root, output=output, own_group=True)
        threading.Thread(target=self._report_end, args=(child,), daemon=True).start()
        return child

    def _report_end(self, child: Child) -> None:
        child.wait()
        self._events.put(child)


def ending(code: int) -> str:
    """Describe an exit code."""
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def environment(*layers: Mapping[str, str | None]) -> dict[str, str]:
    """Merge `layers` and this process's environment, which comes last; empty values are left out."""
    merged: dict[str, str] = {}
    for layer in (*layers, os.environ):
        merged.update({name: value for name, value in layer.items() if value})
    return merged
