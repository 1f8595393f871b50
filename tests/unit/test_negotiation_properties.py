"""The version of MQTT over whatever a broker and a link do: scripted answers, no broker and no clock."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.errors import ConnectionLostError, ProtocolRefusedError, RefusedError, SessionError
from arus.mqtt.client import Session
from arus.mqtt.connection import Connection
from arus.mqtt.events import Connected
from arus.mqtt.negotiation import BELIEVED, Found, Negotiation, Version
from arus.mqtt.probe import ROUNDS, compare_versions
from arus.settings import Settings, load

NOW = 1_800_000_000_000
SETTINGS = load({})


class Link(StrEnum):
    """What happens to one connection on its way."""

    PASSES = "passes"
    CUT = "cut"
    SILENCE = "silence"
    HANG_UP = "hang-up"
    #: A refusal in the version that was asked for, such as bad credentials.
    REFUSED = "refused"


class Broker(StrEnum):
    """How a broker takes MQTT 5; all take 3.1.1."""

    ACCEPTS_5 = "accepts 5"
    REFUSES_5 = "refuses 5"
    HANGS_UP_ON_5 = "hangs up on 5"
    IGNORES_5 = "ignores 5"


class Scene:
    """A connection's attempts, one after the other."""

    client_id = "ship"

    def __init__(self, broker: Broker, link: Iterable[Link], found: Found | None = None) -> None:
        self.broker = broker
        self.now = NOW
        self.clock = 0.0
        self.negotiation = Negotiation("auto", found)
        #: The version of each attempt, and whether it was accepted.
        self.attempts: list[tuple[Version, bool]] = []
        #: Each CONNECT of the last trial: the version and whether it was answered.
        self.trial: list[tuple[Version, bool | None]] = []
        #: Whether an answer has said that the broker does not speak 5.
        self.was_told = False
        #: What happens to the next connections; then all pass.
        self.link = deque(link)
        self._connection = Connection(
            cast("Session", self),
            SETTINGS,
            stopping=lambda: False,
            clock=lambda: self.clock,
            settle=self._settle,
        )

    def attempt(self) -> Version:
        """Make the attempt that is due, and let it end; return its version."""
        self.clock = max(self.clock, self._connection.wake_at)
        assert self._connection.step() is not None
        try:
            self._connection.connect(clean_start=False)
            self._connection.accepted(Connected(True, None, None, self.attempts[-1][0]))
            self._connection.open()
            self.clock += 3600
            raise ConnectionLostError("the link was cut an hour later")
        except SessionError as error:
            self._connection.ended(error)
        return self.attempts[-1][0]

    def _settle(
        self, _session: Session, _settings: Settings, _stopping: Callable[[], bool]
    ) -> None:
        if not self.negotiation.wants_trial(self.now):
            return
        self.trial.clear()
        self.negotiation.tried(compare_versions(self._answers, 10.0), self.now)

    def _answers(self, version: Version, _patience: float) -> bool | None:
        try:
            self._ask(version)
            answered: bool | None = True
        except RefusedError as error:
            answered = False if error.code == 0x84 else None
        except SessionError:
            answered = False
        self.trial.append((version, answered))
        return answered

    def _ask(self, version: Version) -> None:
        """Ask the broker over the link."""
        link = self.link.popleft() if self.link else Link.PASSES
        if link is Link.REFUSED:
            raise RefusedError("not authorized", 0x87)
        lost = link is not Link.PASSES
        if not lost and version == "5" and self.broker is Broker.REFUSES_5:
            raise RefusedError("unsupported protocol version", 0x84)
        if lost or (version == "5" and self.broker is not Broker.ACCEPTS_5):
            raise ConnectionLostError(link, hung_up=link is Link.HANG_UP)

    # -- the session of the connection ------------------------------------------------------------

    def connect(self, *, clean_start: bool, will_topic: str | None, will: bytes | None) -> None:
        assert (clean_start, will_topic, will) == (False, None, None)
        version = self.negotiation.choose(self.now)
        self.attempts.append((version, False))
        try:
            self._ask(version)
        except RefusedError as error:
            if error.code != 0x84:
                self.negotiation.answered()
                raise
            self.was_told = True
            assert self.negotiation.refused(version, self.now)
            raise ProtocolRefusedError from error
        except SessionError:
            self.negotiation.unanswered(version)
            raise
        self.attempts[-1] = (version, True)
        self.negotiation.accepted(version, self.now)

    def close(self) -> None:
        """Nothing to close."""


LINKS = st.lists(st.sampled_from(list(Link)), max_size=80)
#: What a trial must have seen before 3.1.1 is spoken.
EVIDENCE = [*[("3.1.1", True), ("5", False)] * ROUNDS, ("3.1.1", True)]


@given(st.sampled_from(list(Broker)), LINKS)
def test_3_1_1_is_spoken_only_after_an_answer_or_a_complete_trial(
    broker: Broker, link: list[Link]
) -> None:
    scene = Scene(broker, link)
    for _ in range(40):
        if scene.attempt() == "3.1.1":
            assert scene.was_told or scene.trial == EVIDENCE
            break


@given(st.sampled_from(list(Broker)), LINKS)
def test_whatever_was_before_it_is_connected_within_three_attempts_on_a_good_link(
    broker: Broker, link: list[Link]
) -> None:
    scene = Scene(broker, link)
    while scene.link:
        scene.attempt()
    versions = [scene.attempt() for _ in range(3)]
    assert any(accepted for _, accepted in scene.attempts[-3:]), versions


@pytest.mark.parametrize("broker", list(Broker))
def test_each_broker_is_reached_within_three_attempts(broker: Broker) -> None:
    scene = Scene(broker, [])
    for _ in range(3):
        scene.attempt()
    assert scene.attempts[-1][1]
    assert scene.attempts[-1][0] == ("5" if broker is Broker.ACCEPTS_5 else "3.1.1")


def test_a_flapping_link_leaves_it_at_5() -> None:
    """Independent of the version, at any rate of loss."""
    chance = random.Random(seed := random.randrange(10**6))
    print(f"seed {seed}")
    spoken_older = 0
    for _ in range(300):
        loss = chance.uniform(0.1, 0.95)
        lost = [Link.CUT, Link.SILENCE, Link.HANG_UP]
        link = [chance.choice(lost) if chance.random() < loss else Link.PASSES for _ in range(300)]
        scene = Scene(Broker.ACCEPTS_5, link)
        spoken_older += any(scene.attempt() == "3.1.1" for _ in range(60))
    # A trial is fooled with a probability of at most 2^-13, and only while nothing was ever accepted.
    assert spoken_older <= 2


@given(LINKS)
def test_what_has_spoken_5_is_not_tried_for_a_day(link: list[Link]) -> None:
    scene = Scene(Broker.IGNORES_5, link, Found("5", NOW))
    for _ in range(10):
        assert scene.attempt() == "5"
    assert not scene.trial


def test_the_version_is_looked_at_again_after_a_day() -> None:
    scene = Scene(Broker.ACCEPTS_5, [], Found("3.1.1", NOW))
    assert scene.attempt() == "3.1.1"
    scene.now += BELIEVED
    assert scene.attempt() == "5"
    assert scene.attempts[-1] == ("5", True)
