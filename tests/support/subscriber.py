"""A real subscriber, in a process of its own: mosquitto_sub."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from tests.support.broker import find_program
from tests.support.lifecycle import Started
from tests.support.waiting import PATIENCE
from tools.processes import Child

_KILL = signal.SIGKILL
_TERM = signal.SIGTERM


@dataclass(frozen=True)
class Received:
    """A message as the broker handed it over."""

    topic: str
    payload: str
    qos: int
    retain: bool
    #: seconds, of this machine's steady clock
    at: float

    @property
    def json(self) -> Any:
        """The payload, parsed."""
        return json.loads(self.payload)


class Subscriber(Started):
    """Collects what arrives on `topics`, from the moment `start` returns.

    With a `client_id` its session outlives it (`stop`, then `start` again): a durable subscriber.
    """

    def __init__(
        self,
        port: int,
        *topics: str,
        qos: int = 2,
        client_id: str | None = None,
        args: tuple[str, ...] = (),
    ) -> None:
        # stdbuf: a line is worth most when it is fresh
        self._argv = ["stdbuf", "-oL", find_program("mosquitto_sub")]
        self._argv += ["-h", "127.0.0.1", "-p", str(port)]
        self._argv += ["-V", "mqttv5", "-q", str(qos), "-F", "%j", "-d"]
        if "mqttv311" not in args:
            # it would take 20 messages of QoS 2 at a time without saying so, and end at the next
            self._argv += ["-D", "connect", "receive-maximum", "65535"]
        if client_id:
            self._argv += ["-i", client_id, "-c", "-x", "4294967295"]
        for topic in topics or ("#",):
            self._argv += ["-t", topic]
        self._argv += args
        self._child: Child | None = None
        self._reader: threading.Thread | None = None
        self._changed = threading.Condition()
        self._received: list[Received] = []
        self._said: list[str] = []
        self._subscribed = False

    @property
    def messages(self) -> list[Received]:
        """All messages so far, in order of arrival."""
        with self._changed:
            return list(self._received)

    @property
    def payloads(self) -> list[Any]:
        """Their payloads, parsed."""
        return [message.json for message in self.messages]

    def changes(self, entity: str | None = None) -> list[dict[str, Any]]:
        """The changes among them, of one entity or of all."""
        return [
            payload
            for payload in self.payloads
            if isinstance(payload, dict)
            and payload.get("type") == "data_change"
            and entity in (None, payload.get("entity"))
        ]

    def wait(self, count: int, timeout: float = 20) -> list[Received]:
        """All messages, once there are `count` of them."""
        self.wait_until(lambda: len(self._received) >= count, timeout, f"{count} messages")
        return self.messages

    def wait_for(
        self, predicate: Callable[[Received], bool], timeout: float = 20, what: str = "a message"
    ) -> Received:
        """The first message for which `predicate` holds, arrived or still to come."""
        self.wait_until(lambda: any(map(predicate, self._received)), timeout, what)
        return next(filter(predicate, self.messages))

    def wait_until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        """Return once `condition()` holds; it is asked at each message."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition() or self._ended(), timeout * PATIENCE):
                raise AssertionError(
                    f"no {what} within {timeout * PATIENCE} s; {len(self._received)} messages arrived"
                )
            if not condition():
                raise AssertionError(f"mosquitto_sub ended before {what}: {self._said[-5:]}")

    def clear(self) -> None:
        """Forget what has arrived."""
        with self._changed:
            self._received.clear()

    def start(self) -> Self:
        """Subscribe, and return once the broker has confirmed it."""
        self._subscribed = False
        self._child = Child("mosquitto_sub", self._argv, output=subprocess.PIPE)
        self._reader = threading.Thread(target=self._read, args=(self._child,), daemon=True)
        self._reader.start()
        try:
            self.wait_until(lambda: self._subscribed, 10, "SUBACK")
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Go offline in good order."""
        self._end(kill=False)

    def kill(self) -> None:
        """Vanish: no DISCONNECT is sent."""
        self._end(kill=True)

    def close(self) -> None:
        self.kill()

    def _ended(self) -> bool:
        return self._child is None or self._child.returncode() is not None

    def _end(self, *, kill: bool) -> None:
        if self._child is None:
            return
        child, reader, self._child = self._child, self._reader, None
        # the reader sees the end of the output first: closing the pipe under it would race
        child.send(_KILL if kill else _TERM)
        child.wait(10)
        if reader is not None:
            reader.join(10)
        child.kill()

    def _read(self, child: Child) -> None:
        for raw in child.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            with self._changed:
                if line.startswith("{"):
                    fields = json.loads(line)
                    self._received.append(
                        Received(
                            fields["topic"],
                            fields.get("payload") or "",
                            int(fields["qos"]),
                            bool(fields["retain"]),
                            time.monotonic(),
                        )
                    )
                else:
                    self._said.append(line)
                    self._subscribed = self._subscribed or line.startswith("Subscribed")
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()
