"""Child processes that never outlive their parent.

A child asks the kernel for a signal at its parent's death, so that it ends even when the parent is
killed with SIGKILL. Start children from the main thread: the kernel watches the thread, not the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(
    None, use_errno=True
)  # loaded here, because no import may run between fork and exec


def die_with(parent: int, sig: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send `sig` to this process when `parent` dies; exit if it is dead already."""
    if _libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # the parent died between our start and the line above
        os._exit(1)


class Child:
    """A running program that ends with this process, or earlier by `stop` or `kill`."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        keyboard: int = subprocess.DEVNULL,
        output: int | IO[bytes] | None = None,
        death_signal: signal.Signals = signal.SIGTERM,
        user: int | None = None,
        group: int | None = None,
        own_group: bool = False,
    ) -> None:
        #: its name in messages
        self.name = name
        self._own_group = own_group
        self._process = subprocess.Popen(
            argv,
            env=None if env is None else dict(env),
            cwd=cwd,
            stdin=keyboard,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            process_group=0 if own_group else None,
            # runs after the change of user, which clears the setting
            preexec_fn=_guard(os.getpid(), death_signal),  # noqa: PLW1509 - see die_with
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def stdout(self) -> IO[bytes]:
        """Its output, if started with `output=subprocess.PIPE`."""
        assert self._process.stdout is not None
        return self._process.stdout

    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit code; TimeoutError if it does not end in time."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {timeout} s") from None

    def send(self, sig: signal.Signals) -> None:
        """Send it a signal; do nothing if it has ended."""
        self._process.send_signal(sig)

    def stop(self, timeout: float = 10, sig: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, kill it if it does not end in time, and return its exit code."""
        self.send(sig)
        try:
            return self.wait(timeout)
        except TimeoutError:
            return self.kill()
        finally:
            self._close()

    def kill(self) -> int:
        """Kill it with SIGKILL and wait for its end."""
        self.send(signal.SIGKILL)
        try:
            return self.wait()
        finally:
            self._close()

    def kill_group(self) -> None:
        """Kill the remaining processes of its process group with SIGKILL, itself included."""
        if self._own_group:
            with contextlib.suppress(ProcessLookupError):  # no process is left, as intended
                os.killpg(self.pid, signal.SIGKILL)

    def _close(self) -> None:
        if self._process.stdout is not None:
            self._process.stdout.close()


def _guard(parent: int, sig: signal.Signals) -> Callable[[], None]:
    return lambda: die_with(parent, sig)
