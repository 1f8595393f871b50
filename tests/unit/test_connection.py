"""The connection state machine: what is due, what an answer means, how long it waits; without a broker."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from arus.errors import (
    ConnectError,
    ConnectionLostError,
    ProtocolRefusedError,
    RefusedError,
    SessionError,
    TakenOverError,
)
from arus.mqtt.client import Session
from arus.mqtt.connection import (
    JITTER,
    SOON_CLOSES,
    UNANSWERED,
    Attempt,
    Closed,
    Connection,
    Opened,
    State,
)
from arus.mqtt.events import Connected, Received
from arus.mqtt.meter import Kind
from arus.mqtt.packets import Ack
from arus.mqtt.rivals import STAND_DOWN
from arus.settings import Settings, load

PERIOD = 5.0
TIMEOUT = 10.0
SETTINGS = load({"MQTT_RECONNECT_PERIOD": str(PERIOD), "MQTT_CONNECT_TIMEOUT": str(TIMEOUT)})
OWN = "vessel/sync/system/status"
CLAIMS = "vessel/sync/system/session/ship"
ELSEWHERE = "fleet/other/sync/system/session/ship"
HUNG_UP = ConnectionLostError("the broker closed the connection", hung_up=True)
TAKEN_OVER = ConnectionLostError("taken over", 0x8E, hung_up=True)
CUT = ConnectionLostError("the connection was lost: timed out")


class RecordedSession:
    """What a connection asks of its session, written down."""

    client_id = "ship"

    def __init__(self) -> None:
        self.clean_starts: list[bool] = []
        self.looked_back: list[list[str]] = []
        self.claims: list[bytes] = []
        #: Filters that were subscribed to and not unsubscribed from, and packet ids that were acknowledged.
        self.filters: list[tuple[str, int]] = []
        self.acknowledged: list[int] = []
        self.closed = 0
        self.pings = 0
        #: When the broker last sent anything.
        self.heard_at = -math.inf
        #: When the next ping is due.
        self.ping_due_at = math.inf
        #: What the next call fails with.
        self.failure: SessionError | None = None

    def connect(self, *, clean_start: bool, will_topic: str | None, will: bytes | None) -> None:
        assert (will_topic, will) == ("will", b"gone")
        self._fail()
        self.clean_starts.append(clean_start)

    def look_back(self, topics: Iterable[str]) -> None:
        self.looked_back.append(list(topics))

    def publish_beside(self, topic: str, payload: bytes, *, retain: bool, kind: Kind) -> int:
        assert (topic, retain, kind) == (CLAIMS, True, Kind.CONNECTION)
        self.claims.append(payload)
        return 1

    def ask(self, filters: Iterable[tuple[str, int]]) -> int:
        self.filters += filters
        return 1

    def forget(self, filters: Iterable[str]) -> None:
        self.filters = [each for each in self.filters if each[0] not in set(filters)]

    def acknowledge(self, packet_id: int) -> None:
        self.acknowledged.append(packet_id)

    def keep_alive(self) -> None:
        self._fail()
        self.pings += 1

    def close(self) -> None:
        self.closed += 1

    def _fail(self) -> None:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure


class Scene:
    """A connection with a clock to set and a session that writes down."""

    def __init__(self, look_back: Iterable[str] = (), seed: int = 1) -> None:
        self.now = 1000.0
        self.session = RecordedSession()
        self.settled = 0
        #: Seconds that it takes to find out what a broker speaks.
        self.settling_takes = 0.0
        self.connection = Connection(
            cast("Session", self.session),
            SETTINGS,
            look_back=look_back,
            stopping=lambda: False,
            clock=lambda: self.now,
            rng=random.Random(seed),
            settle=self._settle,
        )

    def _settle(self, session: Session, _settings: Settings, stopping: Callable[[], bool]) -> None:
        assert session is cast("Any", self.session)
        assert not stopping()
        self.settled += 1
        self.now += self.settling_takes

    def attempt(self, *, clean_start: bool = False) -> Attempt:
        """Wait until an attempt is due, and make it."""
        self.now = max(self.now, self.connection.wake_at)
        attempt = self.connection.step()
        assert attempt is not None
        self.connection.connect(clean_start=clean_start, will_topic="will", will=b"gone")
        return attempt

    def accept(self, *, session_present: bool = True) -> bool:
        return self.connection.accepted(Connected(session_present, None, None, "5"))

    def open(self) -> Opened:
        """Make an attempt, and have it succeed."""
        self.attempt()
        if self.accept():
            self.connection.looked_back()
        return self.connection.open()


def claim(payload: bytes) -> Received:
    return Received(CLAIMS, payload, 0, 0, retain=True)


# -- attempts ---------------------------------------------------------------------------------------


def test_the_first_attempt_is_due_at_once_and_has_no_reason() -> None:
    scene = Scene()
    assert scene.connection.state is State.WAITING
    assert scene.attempt() == Attempt(0, None)
    assert scene.now == 1000.0
    assert scene.connection.state is State.CONNECTING
    assert scene.settled == 1


def test_nothing_is_due_while_an_answer_is_waited_for() -> None:
    scene = Scene()
    scene.attempt()
    scene.now += TIMEOUT - 0.1
    assert scene.connection.step() is None
    assert scene.connection.wake_at == 1000.0 + TIMEOUT


def test_an_answer_to_connect_has_the_connect_timeout() -> None:
    scene = Scene()
    scene.attempt()
    scene.now += TIMEOUT
    with pytest.raises(ConnectionLostError, match="did not answer CONNECT in time"):
        scene.connection.step()


def test_the_timeout_begins_when_connect_was_sent() -> None:
    scene = Scene()
    scene.settling_takes = 7
    scene.attempt()
    assert scene.connection.wake_at == 1007.0 + TIMEOUT


def test_an_attempt_that_fails_at_once_waits_for_the_next() -> None:
    scene = Scene()
    scene.session.failure = ConnectError("nobody there")
    with pytest.raises(ConnectError):
        scene.attempt()
    closed = scene.connection.ended(ConnectError("nobody there"))
    assert (closed.attempts, closed.was_open, closed.is_news) == (1, False, True)
    assert scene.connection.step() is None
    assert scene.attempt() == Attempt(1, "nobody there")


def test_the_pause_is_the_period_with_jitter_that_differs_each_time() -> None:
    scene = Scene()
    pauses = set()
    for _ in range(200):
        scene.attempt()
        closed = scene.connection.ended(CUT)
        assert PERIOD * JITTER[0] <= closed.pause <= PERIOD * JITTER[1]
        assert scene.connection.wake_at == scene.now + closed.pause
        pauses.add(closed.pause)
    assert len(pauses) == 200
    assert min(pauses) < 4.1
    assert max(pauses) > 4.9


def test_the_same_generator_gives_the_same_pauses() -> None:
    first, second = Scene(seed=7), Scene(seed=7)
    assert first.connection.ended(CUT).pause == second.connection.ended(CUT).pause


@pytest.mark.parametrize("opens", [True, False])
def test_a_hang_up_before_anything_is_acknowledged_says_what_may_be_forbidden(
    *, opens: bool
) -> None:
    scene = Scene([OWN])
    for _ in range(2):
        scene.attempt()
        scene.accept()
        if opens:
            scene.connection.looked_back()
            scene.connection.open()
        said = str(scene.connection.ended(HUNG_UP).error)
        assert said.startswith(
            f"{HUNG_UP}; fix: if it does so each time, before it has acknowledged"
        )
    scene.open()
    scene.connection.acknowledged([Ack(0x40, 1, 0)])
    assert scene.connection.ended(HUNG_UP).error is HUNG_UP
    scene.attempt()
    assert scene.connection.ended(HUNG_UP).error is HUNG_UP  # it has not accepted the connection


def test_a_version_that_is_refused_is_followed_by_the_other_at_once() -> None:
    scene = Scene()
    scene.attempt()
    assert scene.connection.ended(ProtocolRefusedError()).pause == 0
    assert scene.attempt().number == 1
    assert scene.now == 1000.0


def test_a_broker_that_is_asked_too_much_is_left_in_peace_until_it_accepts_a_message() -> None:
    scene = Scene()
    busy = ConnectionLostError("quota exceeded", 0x97, hung_up=True)
    pauses = []
    for _ in range(5):
        scene.open()  # an accepted connection alone ends nothing
        pauses.append(scene.connection.ended(busy).pause)
    assert pauses == [10, 20, 40, 60, 60]
    scene.open()
    scene.connection.acknowledged([Ack(0x50, 1, 0x97)])
    assert scene.connection.ended(busy).pause == 60
    scene.open()
    scene.connection.acknowledged([Ack(0x50, 1, 0)])
    assert scene.connection.ended(busy).pause == 10
    assert scene.connection.ended(CUT).pause <= PERIOD


def test_retries_are_logged_ever_more_rarely() -> None:
    logged = [number for number in range(501) if Attempt(number, None).is_logged]
    assert logged == [*range(1, 11), *range(20, 101, 10), 200, 300, 400, 500]


def test_a_new_session_is_asked_for_as_wanted() -> None:
    scene = Scene()
    for clean_start in (True, False):
        scene.attempt(clean_start=clean_start)
        scene.connection.ended(CUT)
    assert scene.session.clean_starts == [True, False]


# -- an open connection -----------------------------------------------------------------------------


def test_without_anything_to_look_back_at_it_opens_when_accepted() -> None:
    scene = Scene()
    opened = scene.open()
    assert opened == Opened(Connected(True, None, None, "5"), looked_back=False)
    assert scene.connection.is_open
    assert not scene.session.looked_back
    assert scene.connection.wake_at == math.inf


def test_an_open_connection_is_kept_alive() -> None:
    scene = Scene()
    scene.open()
    assert scene.connection.step() is None
    assert scene.session.pings == 1
    scene.session.failure = ConnectionLostError("the broker did not answer a ping")
    with pytest.raises(ConnectionLostError, match="ping"):
        scene.connection.step()


def test_after_a_connection_attempts_and_reasons_begin_anew() -> None:
    scene = Scene()
    for number in range(3):
        assert scene.attempt().number == number
        scene.connection.ended(CUT)
    scene.open()
    scene.now += 3600
    closed = scene.connection.ended(CUT)
    assert (closed.was_open, closed.attempts, closed.is_news) == (True, 1, True)
    assert scene.attempt() == Attempt(1, str(CUT))


def test_each_reason_is_news_once_between_two_connections() -> None:
    scene = Scene()
    refused = RefusedError("not authorized", 0x87)
    news = []
    for error in (CUT, CUT, refused, CUT, refused):
        scene.attempt()
        news.append(scene.connection.ended(error).is_news)
    assert news == [True, False, True, False, False]
    scene.open()
    assert scene.connection.ended(CUT).is_news  # an open connection has ended: always news
    scene.attempt()
    assert scene.connection.ended(refused).is_news


def test_the_session_is_closed_at_each_end() -> None:
    scene = Scene()
    scene.open()
    scene.connection.ended(CUT)
    scene.attempt()
    scene.connection.ended(CUT)
    assert scene.session.closed == 2


def test_a_second_answer_to_connect_ends_it() -> None:
    scene = Scene()
    scene.open()
    with pytest.raises(ConnectionLostError, match="twice"):
        scene.accept()


# -- looking back -----------------------------------------------------------------------------------


def test_the_first_connection_looks_back_before_it_opens() -> None:
    scene = Scene(look_back=[OWN])
    scene.attempt()
    assert scene.accept()
    assert scene.connection.state is State.LOOKING_BACK
    assert scene.connection.is_accepted
    assert not scene.connection.is_open
    assert scene.session.looked_back == [[OWN]]
    scene.connection.looked_back()
    assert scene.connection.open().looked_back
    scene.connection.ended(CUT)
    assert not scene.open().looked_back
    assert scene.session.looked_back == [[OWN]]


def test_a_look_back_that_was_cut_short_is_made_again() -> None:
    scene = Scene(look_back=[OWN])
    scene.attempt()
    scene.accept()
    assert not scene.connection.ended(CUT).was_open
    assert scene.open().looked_back
    assert scene.session.looked_back == [[OWN], [OWN]]


def test_a_look_back_has_the_connect_timeout_from_the_last_byte_on() -> None:
    scene = Scene(look_back=[OWN])
    scene.attempt()
    scene.now += TIMEOUT - 1
    scene.accept()
    for _ in range(20):
        scene.now += TIMEOUT - 1
        scene.session.heard_at = scene.now
        assert scene.connection.step() is None
        assert scene.connection.wake_at == scene.now + TIMEOUT
    assert scene.session.pings == 20  # the keepalive goes on meanwhile
    scene.now += TIMEOUT
    with pytest.raises(ConnectionLostError, match="did not send its retained messages in time"):
        scene.connection.step()


def test_a_look_back_fails_when_the_keepalive_does() -> None:
    scene = Scene(look_back=[OWN])
    scene.attempt()
    scene.accept()
    scene.session.failure = ConnectionLostError("the broker did not answer a ping")
    with pytest.raises(ConnectionLostError, match="ping"):
        scene.connection.step()


def retained(topic: str) -> Received:
    return Received(topic, b"{}", 0, 0, retain=True)


def test_a_topic_that_was_read_is_not_requested_again() -> None:
    scene = Scene(look_back=["one", "two", "three"])
    scene.attempt()
    scene.accept()
    assert not scene.connection.take_claim(retained("two"))
    assert not scene.connection.take_claim(Received("three", b"{}", 0, 1, retain=False))
    scene.connection.ended(CUT)
    scene.attempt()
    scene.accept()
    scene.connection.take_claim(retained("one"))
    scene.connection.take_claim(retained("three"))
    scene.connection.ended(CUT)
    assert not scene.open().looked_back
    assert scene.session.looked_back == [["one", "two", "three"], ["one", "three"]]


def look_back_in_vain(scene: Scene, received: Received | None = None) -> None:
    scene.attempt()
    assert scene.accept()
    if received is not None:
        scene.connection.take_claim(received)
    scene.now += TIMEOUT
    with pytest.raises(ConnectionLostError) as failed:
        scene.connection.step()
    scene.connection.ended(failed.value)


def test_a_broker_that_never_ends_a_look_back_is_opened_without(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene(look_back=[OWN])
    for _ in range(UNANSWERED):
        look_back_in_vain(scene)
    assert not scene.open().looked_back
    assert "does not answer UNSUBSCRIBE" in caplog.text
    scene.connection.ended(CUT)
    look_back_in_vain(scene)  # each further connection tries it once more
    assert not scene.open().looked_back
    scene.connection.ended(CUT)
    assert scene.open().looked_back


def test_a_look_back_in_which_something_arrives_is_not_given_up() -> None:
    scene = Scene(look_back=["one", "two"])
    for _ in range(3):
        look_back_in_vain(scene)
        look_back_in_vain(scene)
        look_back_in_vain(scene, Received("two", b"{}", 0, 1, retain=False))
    assert scene.open().looked_back


def test_who_finds_the_look_back_wrong_need_not_open() -> None:
    scene = Scene(look_back=[OWN])
    scene.attempt()
    scene.accept()
    scene.connection.looked_back()
    restored = ConnectionLostError("restored from an older copy")
    assert not scene.connection.ended(restored).was_open
    assert not scene.open().looked_back  # what it had to tell it has told


# -- another client with the same client id -----------------------------------------------------------


def test_a_takeover_that_the_broker_names_makes_it_stand_down() -> None:
    scene = Scene()
    scene.open()
    closed = scene.connection.ended(TAKEN_OVER)
    assert closed.stands_down
    assert isinstance(closed.error, TakenOverError)
    assert closed.pause == STAND_DOWN
    assert scene.connection.wake_at == scene.now + STAND_DOWN


def test_a_connection_that_ended_soon_is_followed_by_a_look_at_the_claims() -> None:
    scene = Scene()
    scene.open()
    assert not scene.connection.claim_due
    scene.now += 1
    scene.connection.ended(HUNG_UP)
    scene.open()
    assert scene.session.looked_back == [[CLAIMS]]
    assert scene.connection.claim_due
    scene.connection.publish_claim()
    assert not scene.connection.claim_due
    assert len(scene.session.claims) == 1


def test_a_claim_that_is_not_its_own_makes_it_stand_down() -> None:
    scene = Scene()
    scene.open()
    for _ in range(2):
        scene.now += 1
        scene.connection.ended(HUNG_UP)
        scene.attempt()
        assert scene.accept()
        if scene.session.claims:
            assert scene.connection.take_claim(claim(b"another's"))
            with pytest.raises(TakenOverError) as raised:
                scene.connection.looked_back()
            assert scene.connection.ended(raised.value).stands_down
            return
        scene.connection.looked_back()
        scene.connection.open()
        scene.connection.publish_claim()
    pytest.fail("it has not seen the other's claim")


def test_its_own_claim_makes_it_open() -> None:
    scene = Scene()
    scene.open()
    for _ in range(5):
        scene.now += 1
        assert not scene.connection.ended(HUNG_UP).stands_down
        scene.attempt()
        scene.accept()
        if scene.session.claims:
            scene.connection.take_claim(claim(scene.session.claims[-1]))
        scene.connection.looked_back()
        scene.connection.open()
        scene.connection.publish_claim()


def test_a_claim_that_waits_for_room_is_dropped_with_its_connection() -> None:
    scene = Scene()
    scene.open()
    scene.connection.ended(HUNG_UP)
    scene.open()
    assert scene.connection.claim_due
    scene.connection.ended(CUT)
    assert not scene.connection.claim_due


def test_a_claim_is_for_nobody_else() -> None:
    scene = Scene(look_back=[OWN])
    scene.attempt()
    scene.accept()
    assert not scene.connection.take_claim(Received(OWN, b"{}", 0, 0, retain=True))
    assert scene.connection.take_claim(claim(b"one"))
    scene.connection.looked_back()
    scene.connection.open()
    assert scene.connection.take_claim(claim(b"late"))
    assert not scene.connection.take_claim(Received(OWN, b"{}", 0, 0, retain=True))


def suspicious() -> Scene:
    """A connection that is open after one that ended soon, and has published its claim."""
    scene = Scene()
    scene.open()
    scene.connection.ended(HUNG_UP)
    scene.open()
    scene.connection.publish_claim()
    return scene


def test_a_claim_under_another_prefix_makes_it_stand_down_if_it_was_displaced() -> None:
    """The session that both share was subscribed to it by the other: MQTT_CLIENT_ID is all that they have in common."""
    scene = suspicious()
    with pytest.raises(TakenOverError) as raised:
        scene.connection.take_claim(Received(ELSEWHERE, b"another's", 7, 1, retain=False))
    assert scene.connection.ended(raised.value).stands_down


def test_closes_that_go_on_are_said_to_look_like_another_client() -> None:
    """The broker need not send us the other's claim: its access rules may forbid us to read it."""
    scene = Scene()
    fixes = []
    for _ in range(SOON_CLOSES + 1):
        scene.open()
        fixes.append(scene.connection.ended(HUNG_UP).error.fix)
    assert fixes[:-1] == [None] * SOON_CLOSES
    assert "client id ship" in str(fixes[-1])
    scene.open()
    scene.now += 3 * PERIOD
    scene.connection.ended(CUT)
    scene.open()
    assert scene.connection.ended(HUNG_UP).error.fix is None


def test_a_claim_that_an_earlier_prefix_has_left_is_acknowledged() -> None:
    scene = Scene()
    scene.open()
    assert scene.connection.take_claim(Received(ELSEWHERE, b"ours", 7, 1, retain=False))
    assert scene.session.acknowledged == [7]


def test_its_last_claim_alone_stays_unacknowledged_as_long_as_a_rival_may_come() -> None:
    scene = suspicious()
    assert scene.session.filters == [(CLAIMS, 1)]
    [own] = scene.session.claims
    for packet_id, payload in ((1, b"of an owner before"), (2, own), (3, own)):
        assert scene.connection.take_claim(Received(CLAIMS, payload, packet_id, 1, retain=False))
    assert scene.session.acknowledged == [1, 2]
    scene.now += 3 * PERIOD
    scene.connection.step()
    assert scene.session.acknowledged == [1, 2, 3]
    scene.connection.ended(HUNG_UP)
    scene.open()
    assert scene.session.filters == []


# -- what is logged ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("is_news", "levels"), [(True, [logging.WARNING]), (False, [logging.DEBUG])]
)
def test_news_is_a_warning(
    is_news: bool, levels: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    broker = load({"MQTT_BROKER_URL": "mqtt://ashore"}).broker
    Closed(CUT, False, 3, 4.5, stands_down=False, is_news=is_news).log(broker)
    assert [record.levelno for record in caplog.records] == levels
    assert caplog.records[0].attempt == 3  # type: ignore[attr-defined]
    assert caplog.records[0].getMessage() == f"[MQTT Reliable Sync] {CUT}"


def test_standing_down_is_an_error_that_names_the_client_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = load({"MQTT_BROKER_URL": "mqtt://ashore"}).broker
    Closed(TakenOverError("ship"), True, 1, 60.0, stands_down=True, is_news=True).log(broker)
    first = caplog.records[0]
    assert first.levelno == logging.ERROR
    assert "client id ship" in first.getMessage()
    assert first.getMessage().endswith("standing down for 60 s")


# -- any order of events ----------------------------------------------------------------------------

ERRORS = st.sampled_from(
    [
        HUNG_UP,
        CUT,
        TAKEN_OVER,
        ProtocolRefusedError(),
        RefusedError("not authorized", 0x87),
        ConnectError("nobody there"),
    ]
)


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens and whenever, an attempt follows, in time, and never beside a connection."""

    @initialize(topics=st.sampled_from([(), (OWN,)]), seed=st.integers(0, 100))
    def begin(self, topics: tuple[str, ...], seed: int) -> None:
        self.scene = Scene(topics, seed)
        self.failures = 0
        self.said: set[str] = set()

    @property
    def state(self) -> State:
        return self.scene.connection.state

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.scene.now += seconds

    @rule(clean_start=st.booleans())
    def step(self, clean_start: bool) -> None:
        connection, before = self.scene.connection, self.state
        late = self.scene.now >= connection.wake_at
        try:
            attempt = connection.step()
        except ConnectionLostError as error:
            assert late
            assert before in {State.CONNECTING, State.LOOKING_BACK}
            self.end(error)
            return
        assert (attempt is not None) == (late and before is State.WAITING)
        if attempt is not None:
            assert attempt.number == self.failures
            self.scene.attempt(clean_start=clean_start)
            assert self.scene.session.clean_starts[-1] == clean_start
            assert self.state is State.CONNECTING

    @precondition(lambda self: self.state is State.CONNECTING)
    @rule(session_present=st.booleans())
    def the_broker_accepts(self, session_present: bool) -> None:
        if not self.scene.accept(session_present=session_present):
            self.opens()

    @precondition(lambda self: self.state is State.LOOKING_BACK)
    @rule(payload=st.sampled_from([None, b"another's"]))
    def the_look_back_ends(self, payload: bytes | None) -> None:
        if payload is not None:
            assert self.scene.connection.take_claim(claim(payload))
        try:
            self.scene.connection.looked_back()
        except TakenOverError as error:
            assert payload is not None
            assert self.scene.session.claims
            self.end(error)
        else:
            self.opens()

    def opens(self) -> None:
        self.scene.connection.open()
        self.failures = 0
        self.said.clear()

    @precondition(lambda self: self.scene.connection.claim_due)
    @rule()
    def there_is_room_for_the_claim(self) -> None:
        self.scene.connection.publish_claim()

    @precondition(lambda self: self.state is not State.WAITING)
    @rule(error=ERRORS)
    def it_fails(self, error: SessionError) -> None:
        self.end(error)

    def end(self, error: SessionError) -> None:
        was_open = self.scene.connection.is_open
        closed = self.scene.connection.ended(error)
        self.failures += 1
        assert closed.was_open == was_open
        assert closed.attempts == self.failures
        assert closed.is_news == (str(closed.error) not in self.said)
        self.said.add(str(closed.error))
        assert closed.stands_down == isinstance(closed.error, TakenOverError)
        longest = STAND_DOWN if closed.stands_down else PERIOD
        shortest = 0 if isinstance(error, ProtocolRefusedError) else PERIOD * JITTER[0]
        assert shortest <= closed.pause <= longest

    @invariant()
    def an_attempt_is_never_far(self) -> None:
        connection = self.scene.connection
        if self.state is State.WAITING:
            assert connection.wake_at <= self.scene.now + STAND_DOWN
        elif self.state is not State.OPEN:
            assert connection.wake_at <= self.scene.now + TIMEOUT

    @invariant()
    def a_claim_is_due_in_an_open_connection_alone(self) -> None:
        assert self.scene.connection.is_open or not self.scene.connection.claim_due


AnyOrder.TestCase.settings = hypothesis_settings(
    max_examples=100, stateful_step_count=40, deadline=None
)
TestAnyOrder = AnyOrder.TestCase
