"""The follower in JavaScript, as a child process with a store of its own."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.broker import find_program
from tests.support.lifecycle import Started
from tools.processes import Child

HERE = Path(__file__).resolve().parent
PROGRAM = HERE / "follower.mjs"


def run_program(*arguments: str | Path) -> Any:
    """What the program prints with `arguments`, parsed."""
    assert (HERE / "node_modules" / "mqtt").is_dir(), "run tools/install_test_servers"
    done = subprocess.run(
        [find_program("node"), PROGRAM, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


#: Reads steps: methods of a copy with their arguments; prints the ids of its crew after each.
_PLAY = """
import { Copy } from %s
const copy = new Copy('ship-1', { crew: 'crew' })
const ids = []
for (const [method, ...args] of JSON.parse(fs.readFileSync(0))) {
  copy[method](...args)
  ids.push(Object.keys(copy.rows.crew).sort())
}
console.log(JSON.stringify(ids))
"""


def play(steps: Sequence[Sequence[Any]]) -> list[list[str]]:
    """Have a copy of ship-1's crew do one step after the other, without a broker.

    :param steps: each the name of a method and its arguments.
    :return: the ids of the rows after each step.
    """
    script = "import fs from 'node:fs'\n" + _PLAY % json.dumps((HERE / "copy.mjs").as_uri())
    done = subprocess.run(
        [find_program("node"), "--input-type=module", "--eval", script],
        input=json.dumps(steps),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    ids: list[list[str]] = json.loads(done.stdout)
    return ids


class JavaScriptFollower(Started):
    """Follows the vessel `vessel_id` at a broker; its session and its store outlive it."""

    def __init__(self, directory: Path, port: int, vessel_id: str, *options: str) -> None:
        assert (HERE / "node_modules" / "mqtt").is_dir(), "run tools/install_test_servers"
        self.store = directory / "interop"
        self._identity: list[str | Path] = ["--store", self.store, "--vessel", vessel_id]
        self._argv = [find_program("node"), PROGRAM, *self._identity]
        self._argv += ["--url", f"mqtt://127.0.0.1:{port}", "--grace", "1", *options]
        self._child: Child | None = None
        self._reader: threading.Thread | None = None
        self._changed = threading.Condition()
        self._events: list[dict[str, Any]] = []
        self._said: list[str] = []

    def events(self, name: str) -> list[dict[str, Any]]:
        """All events of a name so far."""
        with self._changed:
            return [event for event in self._events if event["event"] == name]

    def wait_for(
        self,
        name: str,
        predicate: Callable[[dict[str, Any]], bool] | None = None,
        timeout: float = 120,
    ) -> dict[str, Any]:
        """The first event `name` for which `predicate` holds, come or still to come."""

        def found() -> dict[str, Any] | None:
            wanted = (event for event in self._events if event["event"] == name)
            return next((event for event in wanted if not predicate or predicate(event)), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended(), timeout)
            event = found()
        if event is None:
            raise AssertionError(
                f"no {name!r}; the last were {self._events[-8:]} {self._said[-8:]}"
            )
        return event

    def clear(self) -> None:
        """Forget the events so far."""
        with self._changed:
            self._events.clear()

    def start(self) -> Self:
        """Start it, and return once it has subscribed."""
        self.clear()
        self._child = Child("node", self._argv, output=subprocess.PIPE)
        self._reader = threading.Thread(target=self._read, args=(self._child,), daemon=True)
        self._reader.start()
        self.wait_for("connected")
        return self

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL it."""
        self._end(signal.SIGKILL)

    def copy_store(self, to: Path) -> None:
        """Keep a copy of its store."""
        shutil.copytree(self.store, to)

    def restore(self, copy: Path) -> None:
        """Put an old copy of its store back, while it is down."""
        shutil.rmtree(self.store)
        shutil.copytree(copy, self.store)

    def dump(self) -> dict[str, Any]:
        """Its state: `rows` by entity and id, and how many messages it has `refused`."""
        state: dict[str, Any] = run_program(*self._identity, "--dump")
        return state

    def close(self) -> None:
        print("--- node", *self._events[-30:], *self._said[-30:], sep="\n")
        self.kill()

    def _ended(self) -> bool:
        return self._child is None or self._child.returncode() is not None

    def _end(self, number: signal.Signals) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.send(number)
        child.wait(20)
        if self._reader is not None:
            self._reader.join(20)
        child.kill()

    def _read(self, child: Child) -> None:
        for raw in child.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            with self._changed:
                if line.startswith("{"):
                    self._events.append(json.loads(line))
                else:
                    self._said.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()
