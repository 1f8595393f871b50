"""A threaded gunicorn worker that slow clients can't occupy.

gunicorn's own workers read a request in the thread, or the process, that answers it: a client that sends half a request
holds it for as long as it likes, and a `sync` worker is killed for it, with the session that it owns. Here the worker's
loop collects each request, and a thread gets it once it has arrived; what a client does not take of a response is kept in a
temporary file, and the loop sends it. In `gunicorn.conf.py`::

    worker_class = "arus.gunicorn.worker.BufferingWorker"

A body above the application's `MAX_CONTENT_LENGTH` is refused. Where that is above 1 MiB, or not set, a thread waits for the rest of a larger one.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import time
from concurrent.futures import Future
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
from gunicorn.workers.gthread import TConn, ThreadWorker

from .arrival import Arrival
from .outgoing import Outgoing, Room

#: Seconds for a connection to send its first byte, and then for the whole request to arrive.
FIRST_BYTE_TIMEOUT = 10.0
REQUEST_TIMEOUT = 30.0
#: Seconds for a client to close a connection after its last response.
CLOSE_TIMEOUT = 2.0
#: Bytes that the kernel takes of a response, so that a slow reader does not hold the thread.
SEND_BUFFER = 1_048_576

_CHUNK = 65_536
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BufferingWorker(ThreadWorker):
    """gunicorn's threaded worker, with requests collected before a thread gets them.

    With TLS of gunicorn's own the requests are not collected: a proxy should do the TLS.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Connections that the loop reads, oldest first: the request that is arriving, None after the last response;
        #: and until when the rest, or the end, is waited for.
        self._arriving: dict[TConn, tuple[Arrival | None, float]] = {}
        #: Connections whose response the loop sends.
        self._sending: set[TConn] = set()
        self._room = Room()

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection, and wait for its request."""
        if self.cfg.is_ssl:
            super().accept(listener)
            return
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.ECONNABORTED}:
                raise
            return
        self.nr_conns += 1
        if self.nr_conns >= self.worker_connections and self._arriving:
            # Clients that wait without a request must not keep others out.
            self._time_out(next(iter(self._arriving)))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        conn = TConn(self.cfg, Outgoing(client, self._room), address, listener.getsockname())
        self._await_data(conn, self._new_arrival(), FIRST_BYTE_TIMEOUT)

    def on_client_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        """Collect the next request of a connection that was kept open."""
        if self.cfg.is_ssl:
            super().on_client_socket_readable(conn, client)
            return
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._await_data(conn, self._new_arrival(), FIRST_BYTE_TIMEOUT)
        self._read(conn, client)

    def enqueue_req(self, conn: TConn) -> None:
        """Wait for the rest of a request whose beginning came behind the previous one."""
        if self.cfg.is_ssl:
            super().enqueue_req(conn)
            return
        arrival = self._new_arrival()
        arrival.add(conn.parser.unreader.take_buffered())
        self._await_data(conn, arrival, REQUEST_TIMEOUT)
        self._go_on(conn, arrival)

    def finish_request(self, conn: TConn, fs: Future[Any]) -> None:
        """Send the rest of the response if the client has not taken it, and then wait for the next request.

        A connection that ends is closed later: gunicorn would wait in the loop for the client to do so.
        """
        if getattr(conn.sock, "has_rest", False) and conn.sock.fileno() >= 0:
            self._sending.add(conn)
            self.poller.register(
                conn.sock, selectors.EVENT_WRITE, partial(self._send_rest, conn, fs)
            )
            return
        is_last = fs.cancelled() or (fs.exception() is None and not fs.result())
        if self.cfg.is_ssl or not is_last:
            super().finish_request(conn, fs)
            return
        self._end(conn)

    def murder_pending(self) -> None:
        """Close what has not arrived in time; called by the loop at least once a second."""
        super().murder_pending()
        now = time.monotonic()
        for conn in [conn for conn, (_, deadline) in self._arriving.items() if deadline <= now]:
            if self._arriving[conn][0] is None and self._is_draining(conn):
                self._arriving[conn] = (None, now + CLOSE_TIMEOUT)
            else:
                self._time_out(conn)
        for conn in [conn for conn in self._sending if conn.sock.has_stalled()]:
            self._stop_sending(conn)
            self.nr_conns -= 1
            conn.close()

    def murder_keepalived(self, force: bool = False) -> None:
        """Close connections without a next request; those that have not taken the last response may do so first."""
        now = time.monotonic()
        while self.keepalived_conns and self.keepalived_conns[0].timeout <= now and not force:
            conn = self.keepalived_conns.popleft()
            self.poller.unregister(conn.sock)
            if not self.cfg.is_ssl and conn.sock.queued:
                self._end(conn)
            else:
                self.nr_conns -= 1
                conn.close()
        super().murder_keepalived(force)

    def _is_draining(self, conn: TConn) -> bool:
        """Return whether a client still takes what the kernel has of its last response."""
        return bool(self.alive and conn.sock.queued and not conn.sock.has_stalled())

    def _end(self, conn: TConn) -> None:
        """Tell a client that there is no more, and wait until it closes the connection."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            self._await_data(conn, None, CLOSE_TIMEOUT)
        except OSError:  # the connection is closed already
            self.nr_conns -= 1
            conn.close()

    def _send_rest(self, conn: TConn, fs: Future[Any], client: Outgoing) -> None:
        """Send more of a response; after all of it the request is finished."""
        try:
            if conn not in self._sending or not client.send_rest():
                return
        except OSError:  # the client is gone
            self._stop_sending(conn)
            self.nr_conns -= 1
            conn.close()
            return
        self._stop_sending(conn)
        self.finish_request(conn, fs)

    def _stop_sending(self, conn: TConn) -> None:
        self._sending.remove(conn)
        self.poller.unregister(conn.sock)

    def _cap_keepalive(self, deadline: float) -> None:
        super()._cap_keepalive(deadline)
        for conn, (arrival, own) in self._arriving.items():
            self._arriving[conn] = (arrival, min(own, deadline))

    def _new_arrival(self) -> Arrival:
        return Arrival(getattr(self.wsgi, "config", {}).get("MAX_CONTENT_LENGTH"))

    def _await_data(self, conn: TConn, arrival: Arrival | None, timeout: float) -> None:
        conn.sock.setblocking(False)
        self._arriving[conn] = (arrival, time.monotonic() + timeout)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._read, conn))

    def _read(self, conn: TConn, client: socket.socket) -> None:
        if conn not in self._arriving:
            return  # closed since the loop found it readable
        arrival, deadline = self._arriving[conn]
        try:
            data = client.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(conn)
            return
        if arrival is None:
            return  # what comes after the last response is discarded
        if not arrival.data:
            deadline = time.monotonic() + REQUEST_TIMEOUT
        arrival.add(data)
        self._arriving[conn] = (arrival, deadline)
        self._go_on(conn, arrival)

    def _go_on(self, conn: TConn, arrival: Arrival) -> None:
        """Refuse a request, or let a thread answer it, if enough of it has arrived."""
        if refusal := arrival.refusal:
            self._refuse(conn, refusal)
        elif arrival.is_complete:
            del self._arriving[conn]
            self.poller.unregister(conn.sock)
            self._hand_over(conn, arrival)
        elif arrival.wants_continue:
            arrival.wants_continue = False
            self._say(conn, _CONTINUE)

    def _refuse(self, conn: TConn, status: HTTPStatus) -> None:
        """Refuse a request; the rest is read in the time for it, because a reset would take the response back."""
        self._say(conn, _response(status))
        with contextlib.suppress(OSError):  # as in _say
            conn.sock.shutdown(socket.SHUT_WR)
        self._arriving[conn] = (None, self._arriving[conn][1])

    def _hand_over(self, conn: TConn, arrival: Arrival) -> None:
        """Let a thread answer a request that has arrived."""
        conn.init()
        conn.parser.unreader.unread(bytes(arrival.data))
        super().enqueue_req(conn)

    def _time_out(self, conn: TConn) -> None:
        arrival, _ = self._arriving[conn]
        if arrival is not None and arrival.data:
            self._say(conn, _response(HTTPStatus.REQUEST_TIMEOUT))
        self._close(conn)

    def _close(self, conn: TConn) -> None:
        del self._arriving[conn]
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def _say(self, conn: TConn, text: bytes) -> None:
        with contextlib.suppress(OSError):  # the client is gone, which the next read says
            conn.sock.send(text)


def _response(status: HTTPStatus) -> bytes:
    """Return the response that refuses a request, a problem document (RFC 9457)."""
    problem = {"type": "about:blank", "title": status.phrase, "status": status.value}
    body = orjson.dumps({**problem, "detail": status.description})
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
