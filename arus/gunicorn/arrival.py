"""A request that is arriving: its bytes, and whether they are all there. No I/O.

Only as much of HTTP/1.1 is understood (RFC 9112) as tells where a request ends; gunicorn parses it.
"""

from __future__ import annotations

import re

#: Bytes of the largest head that is waited for, and of the largest body; gunicorn and the application refuse larger ones.
MAX_HEAD = 65_536
MAX_BODY = 1_048_576

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*chunked[ \t]*\r\n", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*(?=\r\n)", re.IGNORECASE)


class Arrival:
    """The bytes of a request that have arrived."""

    def __init__(self) -> None:
        self.data = bytearray()
        #: Whether the client waits for "100 Continue" before it sends the body (RFC 9110, 10.1.1).
        self.wants_continue = False
        self._head = 0
        #: Bytes of the head and a body of known length; None for a chunked body.
        self._total: int | None = 0
        #: Where the next chunk of a chunked body begins.
        self._chunk = 0

    def add(self, data: bytes) -> None:
        """Add bytes that have arrived."""
        searched = max(0, len(self.data) - len(_END) + 1)
        self.data += data
        if not self._head and (end := self.data.find(_END, searched)) >= 0:
            self._read_head(end + len(_END))

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is waited for: everything has arrived, or more than is accepted."""
        if not self._head:
            return len(self.data) > MAX_HEAD
        if len(self.data) - self._head > MAX_BODY:
            return True
        return self._has_last_chunk() if self._total is None else len(self.data) >= self._total

    def _read_head(self, size: int) -> None:
        head = bytes(self.data[:size])
        if found := _EXPECT.search(head):
            # gunicorn would ask for a body that has already been asked for.
            self.wants_continue = True
            del self.data[found.start() : found.end()]
            head = head[: found.start()] + head[found.end() :]
        self._head = self._chunk = len(head)
        length = _LENGTH.search(head)
        body = int(length[1]) if length else 0
        # A body that is too large is refused by its length alone.
        self._total = self._head + (body if body <= MAX_BODY else 0)
        if _CHUNKED.search(head):
            self._total = None

    def _has_last_chunk(self) -> bool:
        """Whether a chunked body has arrived (RFC 9112, 7.1), or is malformed."""
        while (end := self.data.find(b"\r\n", self._chunk)) >= 0:
            digits = bytes(self.data[self._chunk : end]).partition(b";")[0].strip()
            try:
                size = int(digits, 16)
            except ValueError:
                return True
            if size < 0:
                return True
            if not size:
                # The trailers end with an empty line.
                return self.data.find(_END, end) >= 0
            start = end + 2 + size + 2
            if start > len(self.data):
                return False
            self._chunk = start
        return False
