"""An alert's handshake, cut off by SIGKILL at each of its packets: a raw subscriber sees it once."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from arus.mqtt.packets import FrameReader
from tests.support.mosquitto import Mosquitto
from tests.support.scripted_broker import PUBCOMP, PUBLISH, PUBREC, PUBREL, packet
from tests.support.subscriber import Subscriber
from tests.support.vessel import Vessel, VesselProcess
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow

ALERTS = "vessel/sync/alerts"
_QOS_2 = 0x04


@pytest.fixture
def database_kind() -> str:
    """The ownership tests run the relay on each database."""
    return "sqlite"


@dataclass(frozen=True)
class Moment:
    """The `nth` packet of `kind` of one connection, just before or after it has gone on."""

    kind: int
    nth: int
    after: bool

    @property
    def outward(self) -> bool:
        """From the vessel to the broker."""
        return self.kind in {PUBLISH, PUBREL}

    def matches(self, header: int, *, outward: bool) -> bool:
        """Whether a packet is one of those that are counted."""
        if outward is not self.outward or header & 0xF0 != self.kind:
            return False
        return self.kind != PUBLISH or header & 0x06 == _QOS_2


class Tripwire:
    """The link between vessel and broker, which kills the vessel at each of some moments in turn."""

    def __init__(self, broker_port: int, kill: Callable[[], None], moments: list[Moment]) -> None:
        self._broker_port = broker_port
        self._kill = kill
        self._moments = list(moments)
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self.sprung = 0
        self._failures: list[BaseException] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What MQTT_BROKER_URL takes."""
        return f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"

    def wait_sprung(self, count: int, timeout: float = 20) -> None:
        """Return once it has killed `count` times."""
        with self._changed:
            enough = self._changed.wait_for(
                lambda: self.sprung >= count or self._failures, timeout * PATIENCE
            )
        assert not self._failures, self._failures
        assert enough, f"sprung {self.sprung} times; still waits for {self._moments[:1]}"

    def close(self) -> None:
        """Take no more connections, and wait for the end of those that there were."""
        # a thread in accept() is woken by a shutdown only
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        with ExitStack() as stack:
            while True:
                try:
                    vessel, _ = self._listener.accept()
                except OSError:
                    return  # closed
                thread = threading.Thread(target=self._connect, args=(vessel,), daemon=True)
                thread.start()
                stack.callback(thread.join, 10)

    def _connect(self, vessel: socket.socket) -> None:
        with vessel, socket.create_connection(("127.0.0.1", self._broker_port)) as broker:
            for sock in (vessel, broker):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            cut = threading.Event()
            counts = itertools.count(1)
            inward = threading.Thread(
                target=self._pump, args=(broker, vessel, False, counts, cut), daemon=True
            )
            inward.start()
            self._pump(vessel, broker, True, counts, cut)
            inward.join(10)

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        outward: bool,
        counts: Iterator[int],
        cut: threading.Event,
    ) -> None:
        frames = FrameReader()
        try:
            with suppress(OSError):  # either end is gone: so is the link
                # what the broker still says after a kill is read to its end: a reset
                # would take away from it what it has not read yet
                while data := source.recv(65_536):
                    for header, body, _ in frames.feed(data):
                        if not cut.is_set():
                            self._pass(packet(header, body), sink, outward, counts, cut)
        except BaseException as error:  # noqa: BLE001  # shown by the test's thread
            with self._changed:
                self._failures.append(error)
                self._changed.notify_all()
        finally:
            with suppress(OSError):  # the other end is gone
                sink.shutdown(socket.SHUT_WR)

    def _pass(
        self,
        data: bytes,
        sink: socket.socket,
        outward: bool,
        counts: Iterator[int],
        cut: threading.Event,
    ) -> None:
        with self._lock:
            moment = self._moments[0] if self._moments else None
            trips = (
                moment is not None
                and moment.matches(data[0], outward=outward)
                and next(counts) == moment.nth
            )
            if moment is None or not trips:
                sink.sendall(data)
                return
            if moment.after:
                sink.sendall(data)
            cut.set()
            self._kill()
            self._moments.pop(0)
        with self._changed:
            self.sprung += 1
            self._changed.notify_all()


@pytest.fixture
def writer(migrated_database_url: str) -> Iterator[Vessel]:
    """Commits changes and looks on; relays nothing."""
    vessel = Vessel(migrated_database_url)
    yield vessel
    vessel.notifier.close()
    vessel.engine.dispose()


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "kind",
    [PUBLISH, PUBREC, PUBREL, PUBCOMP],
    ids=["PUBLISH", "PUBREC", "PUBREL", "PUBCOMP"],
)
def test_an_alert_is_seen_once_through_sigkill_of_the_owner_at_each_packet(
    kind: int,
    after: bool,
    protocol: str,
    mosquitto: Mosquitto,
    start_subscriber: Callable[..., Subscriber],
    migrated_database_url: str,
    writer: Vessel,
    tmp_path: Path,
) -> None:
    subscriber = start_subscriber(ALERTS)
    writer.commit(5, "alerts", notify=False)
    processes: dict[int, VesselProcess] = {}

    def kill_the_owner() -> None:
        ((pid,),) = writer.query("SELECT owner_pid FROM arus_session")
        processes.pop(pid).kill()

    moments = [Moment(kind, 1, after), Moment(kind, 2, after)]
    wire = Tripwire(mosquitto.port, kill_the_owner, moments)
    with ExitStack() as stack:
        stack.callback(wire.close)
        with writer.lock.hold():  # none of them begins before all are known
            for _ in range(len(moments) + 1):
                process = stack.enter_context(
                    VesselProcess(
                        migrated_database_url,
                        tmp_path / "vessels.log",
                        MQTT_BROKER_URL=wire.url,
                        MQTT_PROTOCOL=protocol,
                    )
                )
                processes[process.child.pid] = process
        wire.wait_sprung(1)
        writer.commit(3, "alerts")
        wire.wait_sprung(2)
        eventually(lambda: writer.status().depth == 0, 15, message="all is settled")
    mosquitto.publish(ALERTS, '{"seq":"the end"}', "-q", "2")
    subscriber.wait_for(lambda message: message.json["seq"] == "the end")
    assert [alert["seq"] for alert in subscriber.payloads] == [*range(1, 9), "the end"]
