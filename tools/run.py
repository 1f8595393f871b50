"""`make run`: a trial ship in one terminal.

Migrates the database, loads the demo data on the first start, starts a broker and the vessel app,
and prints each message that a subscriber receives. Ctrl-C or SIGTERM stops everything, and so does
the end of this process or of the `make` that started it, even by SIGKILL.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http.client
import math
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
from extensions.config import load_config
from tools.listener import Listener
from tools.ports import LOOPBACK, first_free, is_free
from tools.processes import Child, die_with
from tools.supervisor import RunFailedError, StopRequested, Supervisor, ending, environment
from tools.trial_broker import TrialBroker, start_broker

ROOT = Path(__file__).resolve().parent.parent
INSTANCE = ROOT / "instance"
_BURST = 20
#: Seconds after which a broker that has ended by itself is started again.
_BROKER_PAUSE = 5.0


def main() -> int:
    """Run until asked to stop, and return 0; return 1 after a failure."""
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
    # A wrong setting is reported before anything is started.
    load(values)
    load_config(values)
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
        if sys.stdin.isatty():
            say("  b and Enter stops the broker, and starts it again: an outage to watch\n")
            supervisor.listen_to(sys.stdin)
        _watch(supervisor, listener, address, broker)
    finally:
        supervisor.stop(server)  # before the listener, so that it shows the vessel's last message
        listener.stop()


def _watch(
    supervisor: Supervisor, listener: Listener, address: str, broker: TrialBroker
) -> NoReturn:
    """Wait until something ends the run; print the address again after many lines of messages."""
    start_at = math.inf
    while True:
        event = supervisor.wait(max(0.0, min(1.0, start_at - time.monotonic())))
        if isinstance(event, Child) and event is broker.child:
            start_at = time.monotonic() + _BROKER_PAUSE
            how = f"{event.name} ended by itself ({ending(event.wait())})"
            say(f"{how}; it is started again in {_BROKER_PAUSE:.0f} s")
        elif event == "b":
            start_at = math.inf
            _switch(broker)
        if time.monotonic() >= start_at:
            start_at = math.inf
            broker.start()
            say("the broker was started again")
        if listener.count > _BURST and time.monotonic() - listener.last_at > 1:
            say(f"\n  The ship is at {address}  (Ctrl-C stops it)\n")
            listener.count = 0


def _switch(broker: TrialBroker) -> None:
    """Stop the broker, or start it if it does not run."""
    if broker.launch is None:
        say(f"{broker.description} was not started here, and is not stopped")
    elif broker.runs:
        broker.stop()
        say("the broker is stopped: what is saved now waits (b and Enter starts it again)")
    else:
        broker.start()
        say("the broker was started again")


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Lock the instance folder: two runs would share the broker's files and mix their output."""
    INSTANCE.mkdir(mode=0o700, exist_ok=True)
    with (INSTANCE / "run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFailedError("another `make run` is running in this folder") from None
        yield


def _kept_secret_key() -> str:
    """Return the key of this folder, created at the first start and readable only by its owner."""
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
            raise RunFailedError(f"port {wanted} is in use; choose another: make run PORT=8001")
        return wanted
    port = first_free(range(8000, 8100), values["HOST"])
    if port is None:
        raise RunFailedError("ports 8000 to 8099 are in use; choose another: make run PORT=9000")
    if port != 8000:
        say(f"port 8000 is in use; using {port}")
    return str(port)


def _reachable(host: str) -> str:
    """Return the host under which local clients reach a server that listens on `host`."""
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
    """Print a message for the person at the terminal."""
    with contextlib.suppress(
        OSError
    ):  # the terminal is closed: continue, so that everything is stopped in order
        print(text, file=to or sys.stdout, flush=True)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
