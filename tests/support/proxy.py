"""A reverse proxy that puts an application under a prefix, as a ship's web server would."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.support.lifecycle import Started

_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}


class Proxy(Started):
    """Forwards `prefix` to a loopback port, on a loopback port; `cut` ends each connection at once."""

    def __init__(self, port: int, prefix: str = "") -> None:
        self.prefix = prefix
        #: While true, nobody is answered: the tablet is out of reach of the ship.
        self.cut = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, port))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        """Its port."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The application's address behind it."""
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    def start(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(proxy: Proxy, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # HTTP/1.0: one connection an exchange, so that a cut is felt at once
        def do_GET(self) -> None:
            self._forward()

        do_POST = do_PATCH = do_DELETE = do_HEAD = do_GET  # noqa: N815  # http.server's names

        def _forward(self) -> None:
            if proxy.cut:
                self.close_connection = True
                return
            if not self.path.startswith(f"{proxy.prefix}/"):
                self.send_error(404, "not below the prefix")
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            sent = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            sent |= {
                "X-Forwarded-For": self.client_address[0],
                "X-Forwarded-Host": self.headers["Host"],
                "X-Forwarded-Proto": "http",
                "X-Forwarded-Prefix": proxy.prefix,
            }
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.request(self.command, self.path[len(proxy.prefix) :], body, sent)
                answer = connection.getresponse()
                content = answer.read()
                self.send_response_only(answer.status, answer.reason)
                for name, value in answer.getheaders():
                    if name.lower() not in _HOP:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            finally:
                connection.close()

        def log_message(self, *_args: Any) -> None:
            pass  # the application's own log says it

    return Handler
