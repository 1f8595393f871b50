"""Certificates of a private authority, for brokers with TLS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, a server it vouches for, a client it vouches for."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path

    @classmethod
    def make(cls, directory: Path, *hosts: str) -> Certificates:
        """New ones in `directory`, the server's for `hosts` (loopback when none is named)."""
        directory.mkdir(parents=True, exist_ok=True)
        made = cls(
            *(directory / name for name in ("ca.pem", "server.pem", "server.key")),
            *(directory / name for name in ("client.pem", "client.key")),
        )
        authority = trustme.CA()
        server = authority.issue_cert(*(hosts or ("localhost", "127.0.0.1")))
        client = authority.issue_cert("vessel@ship.example", common_name="vessel")
        authority.cert_pem.write_to_path(str(made.ca))
        server.private_key_pem.write_to_path(str(made.server_key))
        client.private_key_pem.write_to_path(str(made.client_key))
        for number, (issued, path) in enumerate(
            (pem, path)
            for leaf, path in ((server, made.server_cert), (client, made.client_cert))
            for pem in leaf.cert_chain_pems
        ):
            issued.write_to_path(str(path), append=number > 0 and path.exists())
        return made
