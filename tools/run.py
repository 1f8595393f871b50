"""`make run`: a ship to try out, in one terminal.

Migrates the database, loads the demo data on the first start, starts a broker and the vessel app,
and prints each message as a subscriber receives it. Ctrl-C stops all of it; so does SIGTERM, and
so does the death, however sudden, of this process or of the `make` that started it.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http.client
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from dotenv import dotenv_values

from arus.errors import SettingError
from arus.settings import load
from tools.listener import Listener
from tools.ports import LOOPBACK, first_free, is_free
from tools.processes import die_with
from tools.supervisor import RunFailedError, StopRequested, Supervisor, environment
from tools.trial_broker import start_broker

ROOT = Path(__file__).resolve().parent.parent
INSTANCE = ROOT / "instance"
_BURST = 20


def main() -> int:
    """Run until asked to stop; 0 then, 1 after a failure."""
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument("--parent", type=int, default=os.getppid(), help="die with this process")
    die_with(parser.parse_args().parent)
    supervisor = Supervisor(ROOT)
    supervisor.listen()
    try:
        with _only_one():
            try:
                _sail(supervisor)
            finally:
                supervisor.stop_all()
    except StopRequested:
        say("stopped")
        return 0
    except (RunFailedError, SettingError) as error:
        say(f"make run: {error}", to=sys.stderr)
        return 1


def _sail(supervisor: Supervisor) -> NoReturn:
    values = environment(dotenv_values(ROOT / ".env"))
    values.setdefault("SECRET_KEY", _kept_secret_key())
    values.setdefault("LOCAL_MODE", "true")
    values.setdefault("HOST", LOOPBACK)
    values.setdefault("WEB_CONCURRENCY", "2")
    values["PORT"] = _choose_port(values)
    load(values)  # a wrong setting is told before anything is started
    broker = start_broker(supervisor, INSTANCE, values)
    values.update(broker.settings)

    say("preparing the database")
    flask = [sys.executable, "-m", "flask", "--app", "wsgi"]
    supervisor.run("flask db upgrade", [*flask, "db", "upgrade"], values)
    say(supervisor.run("flask demo load", [*flask, "demo", "load"], values))

    listener = Listener(load(values), say)
    listener.start()
    server = supervisor.start("gunicorn", [sys.executable, "-m", "gunicorn", "wsgi:app"], values)
    try:
        host, port = _reachable(values["HOST"]), int(values["PORT"])
        supervisor.wait_until(lambda: _ready(host, port), 60, "the app is ready")
        address = f"http://{host}:{port}/"
        say(f"\n  The ship is at {address}  (Ctrl-C stops it)")
        say(f"  messages: {broker.description}\n")
        _watch(supervisor, listener, address)
    finally:
        supervisor.stop(server)  # before the listener, which shows the vessel's last message
        listener.stop()


def _watch(supervisor: Supervisor, listener: Listener, address: str) -> NoReturn:
    """Until something ends it; the address again when a burst of lines has carried it off."""
    while True:
        supervisor.wait(1)
        if listener.count > _BURST and time.monotonic() - listener.last_at > 1:
            say(f"\n  The ship is at {address}  (Ctrl-C stops it)\n")
            listener.count = 0


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Hold the instance folder: two runs would share a broker's files and print at random."""
    INSTANCE.mkdir(mode=0o700, exist_ok=True)
    with (INSTANCE / "run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFailedError("another `make run` is at work in this folder") from None
        yield


def _kept_secret_key() -> str:
    """The key of this folder, made at the first start, readable by its owner alone."""
    path = INSTANCE / "secret_key"
    if not path.exists():
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(48))
    return path.read_text().strip()


def _choose_port(values: Mapping[str, str]) -> str:
    wanted = values.get("PORT")
    if wanted is not None:
        if not wanted.isdecimal() or not 0 < int(wanted) < 65_536:
            raise RunFailedError(f"PORT={wanted!r} is not accepted; it takes 1 to 65535")
        if not is_free(int(wanted), values["HOST"]):
            raise RunFailedError(f"port {wanted} is taken; choose another: make run PORT=8001")
        return wanted
    port = first_free(range(8000, 8100), values["HOST"])
    if port is None:
        raise RunFailedError("ports 8000 to 8099 are taken; choose another: make run PORT=9000")
    if port != 8000:
        say(f"port 8000 is taken; using {port}")
    return str(port)


def _reachable(host: str) -> str:
    """Where a client of this machine finds a server that listens on `host`."""
    return LOOPBACK if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound


def _ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def say(text: str, to: object = None) -> None:
    """Tell the person at the terminal."""
    with contextlib.suppress(OSError):  # the terminal is gone: ending in order matters more
        print(text, file=to or sys.stdout, flush=True)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
