"""The transport to the broker: credentials, TLS, WebSockets and the socket."""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import ssl
import struct
import sys
import termios
from typing import Any

from paho.mqtt.client import Client

from arus.settings import Settings


class _TlsSocket(ssl.SSLSocket):
    """A TLS socket that is closed when its handshake fails."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def prepare(client: Client, settings: Settings) -> None:
    """Configure a client, before it connects, with the broker's address and credentials.

    :raises ssl.SSLError: a certificate or key can't be used.
    :raises OSError: its file can't be read.
    """
    client.connect_timeout = settings.connect_timeout
    if settings.username is not None:
        client.username_pw_set(settings.username, settings.password)
    if settings.broker.tls:
        client.tls_set_context(tls_context(settings))
        client.tls_insecure_set(not settings.tls_verify)
    if settings.broker.websockets:
        client.ws_set_options(path=settings.broker.target)


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Return the TLS context for connections to the broker.

    :raises ssl.SSLError: a certificate or key can't be used.
    :raises OSError: its file can't be read.
    """
    context = ssl.create_default_context(cafile=settings.tls_ca)
    context.sslsocket_class = _TlsSocket
    if settings.tls_cert is not None:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    if not settings.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def is_reset(error: Exception) -> bool:
    """Whether the other side has closed the connection, rather than the link having failed."""
    return isinstance(error, ConnectionResetError | BrokenPipeError | ssl.SSLEOFError)


# paho's socket is a plain socket, a TLS socket, or a WebSocket wrapper of either.


def send_at_once(sock: Any) -> None:
    """Disable Nagle's algorithm, so that small packets are not held back."""
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def acknowledge_at_once(sock: Any) -> None:
    """Disable delayed TCP acknowledgements: a broker that uses Nagle's algorithm would wait 40 ms for them."""
    if isinstance(sock, socket.socket) and hasattr(socket, "TCP_QUICKACK"):
        # If the other side has closed it meanwhile, the next read reports that.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def has_pending(sock: Any) -> bool:
    """Whether TLS has decrypted data that was not read yet: a poll of the socket does not show it."""
    return hasattr(sock, "pending") and sock.pending() > 0


def is_readable(sock: Any) -> bool:
    """Whether something has arrived that was not read yet."""
    if has_pending(sock):
        return True
    # Not select(): it fails for descriptors of 1024 and above.
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


#: Where `struct tcp_info` of Linux has the bytes of the send buffer that were not sent, those sent, and those sent
#: again; and how long it is from the version on that has them (4.19).
_NOT_SENT, _SENT, _SENT_AGAIN, _TCP_INFO = 144, 200, 208, 216


def accepted_bytes(sock: Any) -> int | None:
    """Return the bytes that the system has accepted on a TCP connection, TLS included; None if it does not tell."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO)
    except OSError:
        return None
    if len(info) < _TCP_INFO:
        return None
    (waiting,) = struct.unpack_from("=I", info, _NOT_SENT)
    sent, again = struct.unpack_from("=QQ", info, _SENT)
    return int(waiting + sent - again)


def unsent_bytes(sock: Any) -> int:
    """Return the bytes written to a socket that the other side's system has not acknowledged; 0 if unknown."""
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)
