"""The vessel app as it is run in production: gunicorn, real workers, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support import http, selection
from tests.support.lifecycle import Started
from tests.support.waiting import eventually, free_port
from tools.processes import Child

ROOT = Path(__file__).resolve().parents[2]
HEALTH = "/api/mqtt/reliable-sync/health"


def clean_environment(**settings: str) -> dict[str, str]:
    """This process's environment without any setting of the product, and with `settings`."""
    ours = ("MQTT_", "WEB_", "ARUS_", "PROMETHEUS_", "RATELIMIT_", "FLASK_", "GUNICORN_")
    names = (
        *("LOCAL_MODE", "DATABASE_URL", "SECRET_KEY", "VESSEL_ID", "PORT", "HOST"),
        # without its cache each Python process that a test starts would compile everything again
        "PYTHONDONTWRITEBYTECODE",
    )
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ours) and name not in names
    }
    return {**kept, "PYTHONUNBUFFERED": "1", **settings}


def flask(
    *command: str, settings: Mapping[str, str], timeout: float = 60, code: Path = ROOT
) -> str:
    """What `flask --app wsgi COMMAND` prints; fails with its output when it fails."""
    done = run_flask(*command, settings=settings, timeout=timeout, code=code)
    assert done.returncode == 0, f"flask {' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def run_flask(
    *command: str, settings: Mapping[str, str], timeout: float = 60, code: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """`flask --app wsgi COMMAND`, run to its end, whatever that is; `code` is the folder of the application."""
    return subprocess.run(
        [Path(sys.executable).with_name("flask"), "--app", "wsgi", *command],
        cwd=code,
        env=clean_environment(**settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class GunicornApp(Started):
    """`gunicorn wsgi:app` on a loopback port, with `settings` as its environment.

    `code` is the folder of the application: this one, or a checkout of another version.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str],
        *,
        workers: int = 2,
        worker_class: str | None = None,
        preload: bool = False,
        args: Sequence[str] = (),
        port: int | None = None,
        code: Path = ROOT,
    ) -> None:
        self.port = port or free_port()
        self._code = code
        self.workers = workers
        self.log_path = directory / f"gunicorn-{self.port}.log"
        self._argv = [str(Path(sys.executable).with_name("gunicorn")), "wsgi:app"]
        if worker_class:
            self._argv += ["--worker-class", worker_class]
        if preload:
            self._argv.append("--preload")
        self._argv += args
        self._env = clean_environment(
            **{
                "SECRET_KEY": "for-tests-only-and-long-enough",
                "HOST": "127.0.0.1",
                "PORT": str(self.port),
                "WEB_CONCURRENCY": str(workers),
                "TRUSTED_HOSTS": "localhost,ship-host",  # what the browser tests call it
                **settings,
            }
        )
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """All it has logged so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def pid(self) -> int:
        """The master's process id."""
        assert self._child is not None, "not started"
        return self._child.pid

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 90,
    ) -> http.Answer:
        """One request on a connection of its own."""
        return http.request(self.port, method, path, body, headers, timeout)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> http.Answer:
        """GET."""
        return self.request("GET", path, headers=headers)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> http.Answer:
        """POST of JSON."""
        return self.request("POST", path, body, headers)

    def health(self) -> dict[str, Any]:
        """What the health endpoint says, from whichever worker answers."""
        answer = self.get(HEALTH)
        assert answer.status == 200, answer.text
        health: dict[str, Any] = answer.json
        return health

    def owner_pid(self) -> int | None:
        """The process id of the worker that holds the MQTT session."""
        owner = self.health()["owner"]
        return owner["pid"] if owner else None

    def wait_connected(self, timeout: float = 20) -> int:
        """The owner's process id, once the session is connected."""

        def connected() -> int | None:
            health = self.health()
            return health["owner"]["pid"] if health["mqtt"]["status"] == "connected" else None

        pid = eventually(connected, timeout, interval=0.1, message="the session is connected")
        assert pid is not None
        return pid

    def worker_pids(self) -> list[int]:
        """The process ids of the master's workers, as the kernel knows them."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def start(self, *, wait: bool = True) -> Self:
        """Start it; with `wait`, return when it answers /readyz and all workers are there."""
        selection.starts("gunicorn")
        with self.log_path.open("ab") as log:
            self._child = Child("gunicorn", self._argv, env=self._env, cwd=self._code, output=log)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Wait until it answers /readyz and all workers are there."""
        try:
            eventually(self._ready, 40, interval=0.05, message="gunicorn is ready")
        except BaseException as error:
            self.kill_all()
            raise AssertionError(f"{error}\n{self.log[-4000:]}") from error

    def hup(self) -> None:
        """Have it replace its workers."""
        os.kill(self.pid, signal.SIGHUP)

    def kill_worker(self, pid: int) -> None:
        """SIGKILL one worker."""
        assert pid in self.worker_pids(), f"{pid} is no worker of {self.pid}"
        os.kill(pid, signal.SIGKILL)

    def stop(self, timeout: float = 20) -> int:
        """End it in good order; its exit code."""
        assert self._child is not None, "not started"
        code = self._child.stop(timeout)
        self._child = None
        return code

    def wait(self, timeout: float = 30) -> int:
        """Its exit code, once it has ended by itself."""
        assert self._child is not None, "not started"
        return self._child.wait(timeout)

    def kill_all(self) -> None:
        """SIGKILL the master and each worker at once: the power fails."""
        if self._child is None:
            return
        if self._child.returncode() is None:
            self._child.send(signal.SIGSTOP)  # it must not replace a worker now
            for pid in self.worker_pids():
                os.kill(pid, signal.SIGKILL)
        self._child.kill()
        self._child = None

    def close(self) -> None:
        print(f"--- {self.log_path.name}\n{self.log[-8000:]}")  # shown for a failed test only
        self.kill_all()

    def _ready(self) -> bool:
        assert self._child is not None
        if self._child.returncode() is not None:
            raise RuntimeError("gunicorn ended at its start")
        return self.get("/readyz").status == 200 and len(self.worker_pids()) >= self.workers
