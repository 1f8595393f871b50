"""A client's connection, on which a thread never waits for a slow reader: what the client does not take is kept in a file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import tempfile
import termios
import threading
import time
from typing import IO, Any

#: Milliseconds that a thread waits for a client to take more, before the rest of its response is kept.
HURRY = 100
#: Seconds after which a client that takes nothing of a response is disconnected.
SEND_TIMEOUT = 30.0
#: Bytes that one worker keeps for all its clients; above it threads wait again.
ROOM = 268_435_456

_CHUNK = 262_144
_DONT_WAIT = socket.MSG_DONTWAIT


class Room:
    """How many bytes may still be kept.

    :param size: bytes, in all.
    """

    def __init__(self, size: int = ROOM) -> None:
        self._left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take `size` bytes of it; return whether there was room."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give_back(self, size: int) -> None:
        """Give back bytes that were taken."""
        with self._lock:
            self._left += size


class Outgoing(socket.socket):
    """A connection to a client. A thread writes the response, and the worker's loop sends what is kept.

    :param client: the connection; it is taken over.
    :param room: what all clients of the worker share.
    """

    def __init__(self, client: socket.socket, room: Room) -> None:
        super().__init__(client.family, client.type, client.proto, fileno=client.detach())
        self._room = room
        self._file: IO[bytes] | None = None
        #: Bytes that were kept, and those of them that were sent.
        self._kept = self._sent = 0
        #: What waited when it was last asked, and since when it is the same.
        self._waiting: tuple[int, int] = (0, 0)
        self._since = 0.0

    @property
    def has_rest(self) -> bool:
        """Whether a part of the response is kept."""
        return self._file is not None

    def sendall(self, data: Any, flags: int = 0) -> None:  # noqa: ARG002  # socket's; gunicorn gives none
        """Send data, or keep what the client does not take."""
        view = memoryview(data)
        if self._file is None:
            try:
                sent = self.send(data, _DONT_WAIT)
            except BlockingIOError:
                sent = 0
            if sent == len(data):  # nearly always
                return
            view = view[sent + self._send_at_once(view[sent:]) :]
        if not view:
            return
        if self._room.take(len(view)):
            self._keep(view)
            return
        while not self.send_rest():
            self._wait()
        while view:
            view = view[self._send_at_once(view) :]
            if view:
                self._wait()

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send a part of a file as `sendall` does; return the number of bytes."""
        file.seek(offset)
        total = 0
        while count is None or total < count:
            piece = file.read(_CHUNK if count is None else min(_CHUNK, count - total))
            if not piece:
                break
            self.sendall(piece)
            total += len(piece)
        return total

    def send_rest(self) -> bool:
        """Send more of what is kept, if the client takes it now; return whether nothing is left.

        :raises OSError: the client is gone.
        """
        if self._file is None:
            return True
        self._file.seek(self._sent)
        with contextlib.suppress(BlockingIOError):
            self._sent += self.send(self._file.read(_CHUNK), _DONT_WAIT)
        if self._sent < self._kept:
            return False
        self._discard()
        return True

    @property
    def queued(self) -> int:
        """Bytes that the kernel has and the client has not acknowledged."""
        (queued,) = struct.unpack("i", fcntl.ioctl(self, termios.TIOCOUTQ, b"\0" * 4))
        return int(queued)

    def has_stalled(self) -> bool:
        """Return whether the client has taken nothing for `SEND_TIMEOUT`; asked now and then while something waits."""
        # The kernel's buffer counts, because it tells that there is room only when a third of it is empty. Its own
        # TCP_USER_TIMEOUT ends connections that get on, too: those whose window is small.
        waiting, now = (self._kept - self._sent, self.queued), time.monotonic()
        if waiting != self._waiting:
            self._waiting, self._since = waiting, now
        return now - self._since > SEND_TIMEOUT

    def close(self) -> None:
        """Close the connection; what is kept is discarded."""
        self._discard()
        super().close()

    def _send_at_once(self, view: memoryview) -> int:
        """Send what the client takes without a long wait; return the number of bytes."""
        sent = 0
        while sent < len(view):
            try:
                sent += self.send(view[sent:], _DONT_WAIT)
            except BlockingIOError:
                if not self._is_writable(HURRY):
                    break
        return sent

    def _wait(self) -> None:
        """Wait a little for the client to take something.

        :raises OSError: it has taken nothing for too long.
        """
        if not self._is_writable(1000) and self.has_stalled():
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def _is_writable(self, timeout: int) -> bool:
        writable = select.poll()
        writable.register(self, select.POLLOUT)
        return bool(writable.poll(timeout))

    def _keep(self, view: memoryview) -> None:
        self._kept += len(view)  # first: what was taken is given back if the disk is full
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="arus-response-")  # noqa: SIM115  # closed below
        self._file.seek(0, 2)
        self._file.write(view)

    def _discard(self) -> None:
        if self._file is not None:
            self._file.close()
        self._room.give_back(self._kept)
        self._file, self._kept, self._sent = None, 0, 0
