"""The notifier: notifies the owner, from any process of this host, that something was committed.

A notification is only a hint: if it is lost, changes are delayed by the poll interval at most, never lost.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import weakref
from collections.abc import Callable
from pathlib import Path


class Notifier:
    """Sends notifications to the Unix datagram socket at a path."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._socket: socket.socket | None = None
        #: Closes the socket; also when an application is dropped without `close()`, as in a test.
        self._release: Callable[[], object] | None = None

    def notify(self) -> None:
        """Notify the owner; never blocks and never fails: without an owner there is nobody to wake up."""
        if self._socket is None:
            self._socket = _datagram_socket()
            self._release = weakref.finalize(self, self._socket.close)
        try:  # noqa: SIM105  # runs in each request that writes
            self._socket.sendto(b"!", self._path)
        except OSError:
            pass  # nobody listens, or the buffer is full

    def close(self) -> None:
        """Close the socket; the next notification opens another. Also called in a forked child."""
        if self._release is not None:
            self._release()
            self._socket = self._release = None


class NotificationListener:
    """The owner's end of the notifier. Only the holder of the owner's lock may create one.

    Its socket is in a directory that only this user can enter, so that nobody else can wake the owner or put
    something in its place. Where that can't be had, nobody is heard: the owner then polls.

    :param path: of the socket; its directory is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = _datagram_socket()
        #: Why no notification can arrive; None if one can.
        self.problem: str | None = None
        try:
            _make_private(path.parent)
            path.unlink(missing_ok=True)  # left behind by an owner that was killed
            self._socket.bind(str(path))
        except OSError as error:
            self.problem = f"{path}: {error.strerror or error}"

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def answer(self) -> bool:
        """Read all notifications that have arrived; return whether there was one."""
        rang = False
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(16):
                rang = True
        return rang

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        if self.problem is None:
            with contextlib.suppress(OSError):  # the directory was removed
                self._path.unlink(missing_ok=True)


def _make_private(directory: Path) -> None:
    """Make a directory that only this user can enter.

    :raises OSError: it can't be made, or it belongs to somebody else.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()  # a link could lead into somebody else's
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"{directory} is not a directory of this user")
    if stat.S_IMODE(found.st_mode) != 0o700:
        directory.chmod(0o700)


def _datagram_socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    return sock
