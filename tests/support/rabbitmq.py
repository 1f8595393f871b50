"""A real RabbitMQ with its MQTT plugin, beside whatever other RabbitMQ the machine has."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.support.broker import DEPLOY, Broker, adapted, find_program
from tests.support.waiting import eventually, free_port
from tools.ports import answers
from tools.processes import Child

#: As Debian ships it: a plugin that has to be enabled, and defaults for all else. AMQP's port could be taken.
AS_SHIPPED = """\
listeners.tcp = none
mqtt.listeners.tcp.default = {address}
"""


class RabbitMQ(Broker):
    """RabbitMQ in a directory of its own, with an Erlang port mapper of its own.

    `as_shipped`: with the package's defaults; else with the files of deploy/rabbitmq.
    """

    NAME = "rabbitmq"
    STARTS_WITHIN = 30.0

    def __init__(
        self, directory: Path, *, as_shipped: bool = False, port: int | None = None
    ) -> None:
        super().__init__(directory, port=port)
        # the script that Debian has on PATH runs it as another user, in /var/lib/rabbitmq
        self._program = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
        self._mapper_port, self._distribution_port = free_port(), free_port()
        self._mapper: Child | None = None
        address = f"127.0.0.1:{self.port}"
        self._login: tuple[str, str] | None = None
        if as_shipped:
            config = AS_SHIPPED.format(address=address)
        else:
            listener = "mqtt.listeners.tcp.default = "
            changed = {f"\n{listener}1883": f"\n{listener}{address}"}
            config = adapted(DEPLOY / "rabbitmq" / "rabbitmq.conf", changed)
            user, password = re.findall(r"^default_(?:user|pass) = (.+)$", config, re.MULTILINE)
            self._login = user, password
        (self.directory / "rabbitmq.conf").write_text(config)
        plugins = (DEPLOY / "rabbitmq" / "enabled_plugins").read_text()
        (self.directory / "enabled_plugins").write_text(plugins)
        (self.directory / "rabbitmq-env.conf").touch()

    @property
    def credentials(self) -> tuple[str, str] | None:
        return self._login

    def command(self) -> Sequence[str | Path]:
        assert self._program.exists(), "RabbitMQ is not installed: run tools/install_test_servers"
        return [self._program]

    def environment(self) -> Mapping[str, str]:
        here = self.directory
        return {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(here),  # of the cookie
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"arus-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONF_ENV_FILE": str(here / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(here / "mnesia"),
            "RABBITMQ_LOG_BASE": str(here / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(here / "config"),
            "RABBITMQ_PID_FILE": str(here / "pid"),
            "RABBITMQ_LOGS": "-",
            "RUNNING_UNDER_SYSTEMD": "true",  # the start script becomes the server
        }

    def add_user(self, kind: str, name: str) -> None:
        """Add a vessel or a follower by the script of deploy/rabbitmq; its password is its name."""
        environment = dict(self.environment())
        # Those on Debian's PATH are for the user of the package.
        environment["PATH"] = f"{self._program.parent}:{environment['PATH']}"
        done = subprocess.run(
            [DEPLOY / "rabbitmq" / "add_user", kind, name],
            input=f"{name}\n",
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> Self:
        """Start it; before that the port mapper, which it would start itself and leave running."""
        if self._mapper is None:
            address = ["-address", "127.0.0.1", "-port", str(self._mapper_port)]
            with self.log_path.open("ab") as log:
                self._mapper = Child(
                    "epmd", [find_program("epmd"), *address], cwd=self.directory, output=log
                )
            eventually(lambda: answers(self._mapper_port), message="epmd takes connections")
        return super().start()

    def close(self) -> None:
        super().close()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper = None
