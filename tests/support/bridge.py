"""A ship's broker and a shore's, joined by deploy/mosquitto/bridge.conf over a link that can be cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.faults.link import Link, Mode
from tests.support.broker import DEPLOY, adapted
from tests.support.certificates import Certificates
from tests.support.lifecycle import Started
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import free_port

FILE = DEPLOY / "mosquitto" / "bridge.conf"
VESSEL_ID = "imo-9321483"
PREFIX = f"fleet/{VESSEL_ID}/sync"
USERS = {VESSEL_ID: "of-the-vessel", "shore": "of-the-follower"}


class Brokers(Started):
    """Both brokers, and the link between: to the bridge, or (`bridged=False`) to what connects to `url`.

    With `certificates` the shore's broker has secured.conf and acl, with the users of `USERS`. A `quick` bridge tries each second to connect, instead of as in the file. `distance`: seconds each way.
    """

    def __init__(
        self,
        directory: Path,
        *,
        bridged: bool = True,
        certificates: Certificates | None = None,
        quick: bool = True,
        distance: float = 0.0,
        seed: int = 1,
    ) -> None:
        self._quick = quick
        self._certificates = certificates
        self.shore = (
            Mosquitto(directory / "shore", secured=True, users=USERS, certificates=certificates)
            if certificates
            else Mosquitto(directory / "shore", deployed=True)
        )
        self._link_port = free_port()
        self._link = (seed, distance)
        self.ship = (
            Mosquitto(directory / "ship", deployed=True, options=self._bridge())
            if bridged
            else None
        )
        self.link: Link | None = None

    @property
    def url(self) -> str:
        """Where the vessel connects to."""
        return self.ship.url if self.ship else f"mqtt://127.0.0.1:{self._link_port}"

    def start(self) -> Self:
        self.shore.start()
        seed, distance = self._link
        self.link = Link(self._link_port, self.shore.port, seed, distance=distance)
        self.link.start()
        if self.ship:
            self.ship.start()
        return self

    def cut(self) -> None:
        """The ship leaves the coverage."""
        assert self.link is not None
        self.link.set_mode(Mode.DOWN)

    def restore(self) -> None:
        """The link is back."""
        assert self.link is not None
        self.link.set_mode(Mode.OPEN)

    def close(self) -> None:
        if self.ship:
            self.ship.close()
        if self.link is not None:
            self.link.stop()
        self.shore.close()

    def _bridge(self) -> Sequence[str]:
        changed = {"broker.example:8883": f"127.0.0.1:{self._link_port}"}
        if self._certificates:
            changed["change-me"] = USERS[VESSEL_ID]
            changed["/etc/mosquitto/certs/ca.pem"] = str(self._certificates.ca)
        else:
            changed["remote_username imo-9321483\nremote_password change-me\n"] = ""
            changed["bridge_cafile /etc/mosquitto/certs/ca.pem\n"] = ""
        if self._quick:
            changed["restart_timeout 5 30"] = "restart_timeout 1"
        return adapted(FILE, changed).splitlines()
