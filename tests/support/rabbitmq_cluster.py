"""Three nodes of RabbitMQ on this machine, which keep the sessions of MQTT in quorum queues."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.support.broker import find_program
from tests.support.lifecycle import Started
from tests.support.rabbitmq import RabbitMQ
from tests.support.waiting import eventually, free_port
from tools.ports import answers
from tools.processes import Child

NODES = 3
#: What a cluster adds to the defaults of the package; docs/fleet.md has it.
CLUSTERED = """\
mqtt.durable_queue_type = quorum
mqtt.prefetch = 1000
cluster_partition_handling = pause_minority
cluster_formation.peer_discovery_backend = classic_config
"""


class Node(RabbitMQ):
    """One node; its Erlang port mapper and its cookie are those of the cluster."""

    STARTS_WITHIN = 60.0

    def __init__(self, directory: Path, home: Path, mapper_port: int) -> None:
        super().__init__(directory, as_shipped=True)
        self._home = home
        self._mapper_port = mapper_port

    @property
    def name(self) -> str:
        """Its name in the cluster."""
        return f"arus-{self.port}@localhost"

    def join(self, names: Sequence[str]) -> None:
        """Have it form a cluster with others, itself included."""
        lines = [
            f"cluster_formation.classic_config.nodes.{number} = {name}"
            for number, name in enumerate(names, 1)
        ]
        with (self.directory / "rabbitmq.conf").open("a") as config:
            config.write(CLUSTERED + "\n".join(lines) + "\n")

    def environment(self) -> Mapping[str, str]:
        arguments = "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none"
        return {
            **super().environment(),
            "HOME": str(self._home),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": arguments,
        }

    def begin(self) -> None:
        """Start it without waiting for it."""
        with self.log_path.open("ab") as log:
            self._child = Child(
                self.NAME, self.command(), env=self.environment(), cwd=self.directory, output=log
            )

    def sessions(self) -> dict[str, str]:
        """The type of the queue of each durable session, by the queue's name."""
        environment = dict(self.environment())
        environment["PATH"] = f"{self._program.parent}:{environment['PATH']}"
        done = subprocess.run(
            [self._program.parent / "rabbitmqctl", "-q", "list_queues", "name", "type", "durable"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        rows = [line.split("\t") for line in done.stdout.splitlines()]
        return {row[0]: row[1] for row in rows if row[0].endswith("qos1") and row[2] == "true"}

    def wait(self) -> None:
        """Return once it takes connections."""
        eventually(self._accepts, self.STARTS_WITHIN, interval=0.2, message=f"{self.name} is there")


class RabbitMQCluster(Started):
    """The nodes, in directories below `directory`."""

    def __init__(self, directory: Path) -> None:
        home = directory / "home"
        home.mkdir(parents=True)
        self._home = home
        self._mapper_port = free_port()
        self._mapper: Child | None = None
        self.nodes = [
            Node(directory / f"node-{number}", home, self._mapper_port) for number in range(NODES)
        ]
        for node in self.nodes:
            node.join([one.name for one in self.nodes])

    @property
    def ports(self) -> list[int]:
        """The ports of all nodes."""
        return [node.port for node in self.nodes]

    def start(self) -> Self:
        address = ["-address", "127.0.0.1", "-port", str(self._mapper_port)]
        self._mapper = Child("epmd", [find_program("epmd"), *address], cwd=self._home, output=None)
        eventually(lambda: answers(self._mapper_port), message="epmd takes connections")
        # The first one writes the cookie, and the others join it.
        for node in self.nodes:
            node.begin()
            node.wait()
        return self

    def close(self) -> None:
        for node in self.nodes:
            node.kill()
        if self._mapper is not None:
            self._mapper.kill()
