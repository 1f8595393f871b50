"""A request that is arriving: its bytes, and whether they are all there. No I/O.

Only as much of HTTP/1.1 is understood (RFC 9112) as tells where a request ends; gunicorn parses it.
"""

from __future__ import annotations

import re
from http import HTTPStatus

#: Bytes of the largest head, and of a body that is waited for: a thread waits for the rest of a larger one.
MAX_HEAD = 65_536
MAX_BODY = 1_048_576
#: Bytes of a chunked body that may be no content: the sizes of its chunks, and the trailers.
MAX_FRAMING = 65_536

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*chunked[ \t]*\r\n", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*(?=\r\n)", re.IGNORECASE)


class Arrival:
    """The bytes of a request that have arrived.

    :param max_body: bytes of the largest body; None if the application accepts any.
    """

    def __init__(self, max_body: int | None = MAX_BODY) -> None:
        self.data = bytearray()
        self._max_body = max_body
        #: Whether the client waits for "100 Continue" before it sends the body (RFC 9110, 10.1.1).
        self.wants_continue = False
        self._head = 0
        #: Bytes of the head and a body of known length; None for a chunked body.
        self._total: int | None = 0
        #: Where the next chunk of a chunked body begins, the bytes of those before it, and whether the last one is there.
        self._chunk = 0
        self._content = 0
        self._is_ended = False

    def add(self, data: bytes) -> None:
        """Add bytes that have arrived."""
        searched = max(0, len(self.data) - len(_END) + 1)
        self.data += data
        if not self._head and (end := self.data.find(_END, searched)) >= 0:
            self._read_head(end + len(_END))
        if self._total is None and not self._is_ended:
            self._is_ended = self._has_last_chunk()

    @property
    def refusal(self) -> HTTPStatus | None:
        """Why no more of it is waited for: it is larger than is accepted."""
        if not self._head:
            if len(self.data) <= MAX_HEAD:
                return None
            has_line = b"\r\n" in self.data
            return (
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                if has_line
                else HTTPStatus.REQUEST_URI_TOO_LONG
            )
        size = self._content if self._total is None else self._total - self._head
        is_too_large = self._max_body is not None and size > self._max_body
        if self._total is None and not self._is_ended:
            is_too_large |= len(self.data) - self._head - size > MAX_FRAMING
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE if is_too_large else None

    @property
    def is_complete(self) -> bool:
        """Whether everything has arrived, or enough to tell that it is malformed, or as much as is waited for."""
        if not self._head:
            return False
        has_all = self._is_ended if self._total is None else len(self.data) >= self._total
        return has_all or len(self.data) - self._head > MAX_BODY + MAX_FRAMING

    def _read_head(self, size: int) -> None:
        head = bytes(self.data[:size])
        if found := _EXPECT.search(head):
            # gunicorn would ask for a body that has already been asked for.
            self.wants_continue = True
            del self.data[found.start() : found.end()]
            head = head[: found.start()] + head[found.end() :]
        self._head = self._chunk = len(head)
        length = _LENGTH.search(head)
        # Python reads no number of thousands of digits; that one is too large is clear from the first ones.
        digits = length[1].lstrip(b"0")[:18] if length else b""
        self._total = self._head + int(digits or b"0")
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
            self._chunk = end + 2 + size + 2
            self._content += size
        return False
