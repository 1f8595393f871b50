"""gunicorn's settings, from the environment."""

import os
import runpy
import shutil
import tempfile
from pathlib import Path

from dotenv import dotenv_values

# In memory, if it is there: a full disk must not keep the server from starting.
_shared = "/dev/shm"  # noqa: S108  # what is made there has a name of its own
_memory = _shared if os.access(_shared, os.W_OK | os.X_OK) else None


def _metrics_directory():
    try:
        return tempfile.mkdtemp(prefix="arus-metrics-")
    except OSError:
        return tempfile.mkdtemp(prefix="arus-metrics-", dir=_memory)


# This must precede any import of prometheus_client, which chooses its mode when it is imported.
_made = "PROMETHEUS_MULTIPROC_DIR" not in os.environ
if _made:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics_directory()

from arus.errors import SettingError  # noqa: E402  # after the line above
from arus.gunicorn import child_exit, post_worker_init, worker_exit  # noqa: E402, F401  # hooks
from arus.settings import Setting, load, whole  # noqa: E402  # as above

ROOT = Path(__file__).resolve().parent
_values = {**dotenv_values(ROOT / ".env"), **os.environ}


def _read(name, default, minimum, maximum):
    accepted = f"a whole number from {minimum} to {maximum}"
    return Setting(name, default, whole(minimum, maximum), accepted, "").read(_values)


try:
    _port = _read("PORT", "8000", 1, 65_535)
    workers = _read("WEB_CONCURRENCY", "2", 1, 64)
    threads = _read("WEB_THREADS", "4", 1, 256)
    # Checked here, a wrong value stops the start with one line instead of a traceback from each worker.
    load(_values)
    # Loaded by path: importing the package would load the application into the master, where HUP can't reload it.
    _config = runpy.run_path(str(ROOT / "extensions" / "config.py"))
    _host = _config["load_config"]()["HOST"]
except SettingError as error:
    raise SystemExit(f"error: {error}") from None

# Enough for a list filtered by several long texts; for longer lines gunicorn itself answers 414.
limit_request_line = 8_190
bind = f"{_host}:{_port}"
# Slow and half-open clients occupy no thread of it.
worker_class = "arus.gunicorn.worker.BufferingWorker"
# Where each worker has the file by which it shows that it is alive.
worker_tmp_dir = _memory
# A worker that hangs is killed after this many seconds, which also releases the leadership.
timeout = 30
graceful_timeout = 20
# Whether a request came by TLS is what TRUSTED_PROXIES says alone: gunicorn would believe any client on this machine.
secure_scheme_headers: dict[str, str] = {}
# The database, its lock and its socket are for their user alone.
umask = 0o077
# It would open a socket in the user's home directory.
control_socket_disable = True


def on_starting(server):
    """Refuse an address of the command line that others reach, unless ACCESS is set; start with empty request metrics."""
    for address in server.cfg.address:
        host = address[0] if isinstance(address, tuple) else "unix:"
        try:
            _config["access_of"](_values.get("ACCESS") or None, host)
        except SettingError as error:
            raise SystemExit(f"error: {error}") from None
    directory = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in directory.glob("*.db"):
            leftover.unlink()
    except OSError as error:
        raise SystemExit(
            f"error: PROMETHEUS_MULTIPROC_DIR={str(directory)!r}: {error.strerror}"
        ) from None


def on_exit(_server):
    """Remove the directory of the metrics."""
    if _made:
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
