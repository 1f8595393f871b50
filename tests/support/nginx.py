"""A real nginx with the file of deploy/nginx in front of a server."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from pathlib import Path

from tests.support.broker import DEPLOY, Broker, adapted, find_program
from tests.support.certificates import Certificates

_AROUND = """\
daemon off;
user {user};
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/bodies;
    proxy_temp_path {directory}/proxied;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/arus.conf;
}}
"""


class Nginx(Broker):
    """nginx with TLS on a loopback port, in front of the server on `behind`."""

    NAME = "nginx"
    MARKER = None

    def __init__(self, directory: Path, behind: int, certificates: Certificates) -> None:
        super().__init__(directory)
        changed = {
            "server 127.0.0.1:8000;": f"server 127.0.0.1:{behind};",
            "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
            "server_name ship.example;": "server_name localhost;",
            "/etc/ssl/certs/ship.pem": str(certificates.server_cert),
            "/etc/ssl/private/ship.key": str(certificates.server_key),
        }
        text = adapted(DEPLOY / "nginx" / "arus.conf", changed)
        (self.directory / "arus.conf").write_text(text)
        self._config = self.directory / "nginx.conf"
        # As root it would become user `nobody`, who may not write into a test's directory.
        user = pwd.getpwuid(os.getuid()).pw_name
        self._config.write_text(_AROUND.format(directory=self.directory, user=user))

    def command(self) -> Sequence[str | Path]:
        """What is started."""
        return [find_program("nginx"), "-e", self.directory / "nginx.log", "-c", self._config]
