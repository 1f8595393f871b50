"""gunicorn's settings, from the environment."""

import os
import runpy
import shutil
import tempfile
from pathlib import Path

from dotenv import dotenv_values

# Before anything imports prometheus_client, which decides at its import how it counts.
_made = "PROMETHEUS_MULTIPROC_DIR" not in os.environ
if _made:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="arus-metrics-")

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
    threads = _read("WEB_THREADS", "1", 1, 256)
    # Said here, a wrong value stops the start with one line instead of a traceback a worker.
    load(_values)
    # By its path: the package would bring the whole application into the master, where HUP can't renew it.
    runpy.run_path(str(ROOT / "extensions" / "config.py"))["load_config"]()
except SettingError as error:
    raise SystemExit(f"error: {error}") from None

# Room for a list filtered by several long texts; beyond it gunicorn itself answers 414.
limit_request_line = 8_190
bind = f"{_values.get('HOST') or '127.0.0.1'}:{_port}"
worker_class = "gthread" if threads > 1 else "sync"
# A worker that hangs is killed after this many seconds, and with it its hold on the session.
timeout = 30
graceful_timeout = 20
# It would open a socket in the user's home directory.
control_socket_disable = True


def on_starting(_server):
    """Begin with empty request metrics."""
    directory = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in directory.glob("*.db"):
        leftover.unlink()


def on_exit(_server):
    """Leave nothing behind."""
    if _made:
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
