"""A real PostgreSQL server of the tests' own, on a loopback port."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Self
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow
from sqlalchemy import make_url

from tests.support import selection
from tests.support.broker import find_program
from tests.support.lifecycle import Started
from tests.support.waiting import eventually, free_port
from tools.processes import Child


class PostgresServer(Started):
    """PostgreSQL in a temporary directory, with trust for everyone on this machine.

    Not durable unless asked to be, which is what it costs that benchmarks are about. Started by root it
    runs as `postgres` or `nobody`: the server refuses to be root.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self.port = free_port()
        self._durable = "on" if durable else "off"
        self._bin = _binaries()
        self._uid, self._gid = _server_user()
        self._directory = Path(tempfile.mkdtemp(prefix="arus-pg-"))
        self._child: Child | None = None

    def url(self, database: str = "postgres") -> str:
        """What DATABASE_URL takes."""
        return f"postgresql+psycopg://arus@127.0.0.1:{self.port}/{database}"

    def create_database(self, template: str = "template1") -> str:
        """The name of a fresh database."""
        name = f"t_{uuid4().hex[:12]}"
        made = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template)
        )
        with self._connected() as connection:
            if connection.info.server_version >= 150_000:
                # Copying the files takes a third of the time that logging each page takes, the default since 15.
                made += sql.SQL(" STRATEGY file_copy")
            connection.execute(made)
        return name

    def drop_database(self, name: str) -> None:
        """Drop it, also under open connections."""
        self._execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )

    def end_transactions(self, name: str) -> None:
        """End those that are open in a database: a test that is over may have left one, whose locks others wait for."""
        self._execute(
            sql.SQL(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {} AND state <> 'idle'"
            ).format(name)
        )

    def run(self, program: str, *words: str) -> str:
        """What one of PostgreSQL's own programs prints, as this server's user."""
        beside = self._bin / program
        done = subprocess.run(
            [
                beside if beside.exists() else find_program(program),
                *("--host=127.0.0.1", f"--port={self.port}", "--username=arus"),
                *words,
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> Self:
        """Create the cluster when there is none, start the server, wait until it answers."""
        selection.starts("postgresql")
        data = self._directory / "data"
        if not data.exists():
            os.chown(self._directory, self._uid, self._gid)
            options = ["-U", "arus", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"]
            subprocess.run(
                [self._bin / "initdb", "-D", data, *options],
                check=True,
                capture_output=True,
                timeout=60,
                cwd="/",
                **self._as_server(),  # type: ignore[call-overload]
            )
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self._directory),
            "fsync": self._durable,
            "full_page_writes": self._durable,
            "max_connections": "200",
            "log_min_messages": "warning",
        }
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        with (self._directory / "log").open("ab") as log:
            self._child = Child(
                "postgres",
                [self._bin / "postgres", "-D", data, "-p", str(self.port), *arguments],
                output=log,
                cwd=Path("/"),
                user=self._uid if os.getuid() == 0 else None,
                group=self._gid if os.getuid() == 0 else None,
                death_signal=signal.SIGQUIT,  # its children end at once too
            )
        try:
            eventually(self._answers, 20, message="PostgreSQL answers")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server; its databases stay for another `start`."""
        if self._child is not None:
            self._child.stop(sig=signal.SIGQUIT)
            self._child = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _connected(self) -> psycopg.Connection[TupleRow]:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="arus", dbname="postgres", autocommit=True
        )

    def _execute(self, statement: sql.Composed) -> None:
        with self._connected() as connection:
            connection.execute(statement)

    def _answers(self) -> bool:
        assert self._child is not None
        if self._child.returncode() is not None:
            raise RuntimeError((self._directory / "log").read_text(errors="replace"))
        try:
            self._execute(sql.SQL("SELECT {}").format(1))
        except psycopg.OperationalError as error:
            raise AssertionError(str(error)) from error
        return True

    def _as_server(self) -> dict[str, object]:
        if os.getuid() != 0:
            return {}
        return {"user": self._uid, "group": self._gid, "extra_groups": []}


def as_plain_role(url: str) -> str:
    """The URL of the same database for a role that may read and write rows, and no more, as on a managed server."""
    target = make_url(url)
    with psycopg.connect(
        host=target.host, port=target.port, user=target.username, dbname=target.database
    ) as connection:
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'plain'").fetchall():
            connection.execute("CREATE ROLE plain LOGIN")
        connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO plain")
        connection.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO plain")
    return url.replace("arus@", "plain@")


def _binaries() -> Path:
    """Where initdb and postgres are: Debian keeps them off PATH, one directory a version."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(versions, key=lambda path: int(path.parts[-3]), default=None)
    assert newest, "PostgreSQL is not installed: run tools/install_test_servers"
    return newest.parent


def _server_user() -> tuple[int, int]:
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known["nobody"]
    return entry.pw_uid, entry.pw_gid
