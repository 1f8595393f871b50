"""Open handshakes: no PUBLISH leaves that a broker would reject without a word."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from arus.mqtt.handshakes import DEFAULT, SAFE, Allowance, Handshakes


def handshakes(
    allowance: Allowance = SAFE,
    *,
    visible: bool = False,
    grows: bool = False,
    confirmed: dict[int, int] | None = None,
    unconfirmed: dict[int, int] | None = None,
) -> Handshakes:
    made = Handshakes()
    made.begin(
        allowance,
        visible=visible,
        grows=grows,
        confirmed=confirmed or {},
        unconfirmed=unconfirmed or {},
    )
    return made


def test_until_it_is_known_one_handshake_is_open_and_nothing_leaves_beside_it() -> None:
    open_ones = handshakes()
    assert open_ones.takes(1)
    open_ones.opened(1, 500)
    assert not open_ones.has_room
    assert not open_ones.takes(2)
    open_ones.closed(1)
    assert open_ones.has_room
    assert open_ones.waits == 1


def test_what_earlier_connections_have_left_is_counted() -> None:
    open_ones = handshakes(Allowance(3), confirmed={1: 10}, unconfirmed={2: 10, 3: 10})
    assert not open_ones.takes(4)
    assert open_ones.takes(2)  # again: it is counted already
    open_ones.opened(2, 12)
    assert open_ones.takes(3)
    open_ones.opened(3, 12)
    open_ones.closed(1)
    assert open_ones.takes(4)


def test_more_than_the_broker_takes_goes_again_one_at_a_time() -> None:
    open_ones = handshakes(Allowance(2), unconfirmed={1: 1, 2: 1, 3: 1, 4: 1})
    assert open_ones.worth_feeding
    for packet_id in (1, 2):
        assert open_ones.takes(packet_id)
        open_ones.opened(packet_id, 1)
        assert not open_ones.takes(packet_id + 1)
        open_ones.closed(packet_id)
    assert open_ones.takes(3)
    open_ones.opened(3, 1)
    assert open_ones.takes(4)  # the two that are left are within what it takes


def test_bytes_are_bounded_where_the_broker_was_seen_to_bound_them() -> None:
    open_ones = handshakes(Allowance(20, 1_000))
    open_ones.opened(1, 900)
    assert open_ones.takes(2)
    open_ones.opened(2, 5_000)
    assert not open_ones.takes(3)
    open_ones.closed(2)
    assert open_ones.takes(3)


def test_on_mqtt_5_more_is_tried_until_the_broker_rejects() -> None:
    open_ones = handshakes(Allowance(2), visible=True, grows=True)
    for packet_id in range(1, 6):
        assert open_ones.takes(packet_id)
        open_ones.opened(packet_id, 1)
        open_ones.confirmed()
    open_ones.rejected(5)
    assert open_ones.allowance == Allowance(4)
    open_ones.confirmed()
    assert open_ones.allowance == Allowance(4)
    open_ones.closed(1)
    assert open_ones.takes(6)


class MosquittoWithoutAWord(RuleBasedStateMachine):
    """A broker of MQTT 3.1.1 that rejects what it has no room for, and a client that must not notice."""

    @initialize(limit=st.integers(1, 24), known=st.integers(1, 30))
    def connect_first(self, limit: int, known: int) -> None:
        self.limit = limit
        self.known = min(known, limit)
        #: What the broker holds, by packet id; and what it has passed on.
        self.held: set[int] = set()
        self.passed_on: set[int] = set()
        self.sent: list[int] = []
        self.released: set[int] = set()
        self.settled: set[int] = set()
        self.again: list[int] = []
        self.next_id = 1
        self.client = handshakes(Allowance(self.known))

    def publish(self, packet_id: int) -> None:
        """The broker gets a PUBLISH of QoS 2, and answers PUBREC whatever it does with it."""
        if packet_id not in self.held:
            assert len(self.held) < self.limit, "rejected without a word"
            self.held.add(packet_id)

    @rule()
    def an_alert_leaves(self) -> None:
        packet_id = self.again[0] if self.again else self.next_id
        if not self.client.takes(packet_id):
            return
        self.client.opened(packet_id, 1)
        if self.again:
            self.again.pop(0)
        else:
            self.next_id += 1
        self.sent.append(packet_id)
        self.publish(packet_id)

    @rule()
    def a_change_of_qos_1_leaves(self) -> None:
        if self.client.has_room:
            assert len(self.held) < self.limit, "rejected without a word"

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def the_broker_releases_one(self, data: st.DataObject) -> None:
        packet_id = data.draw(st.sampled_from(self.sent))
        self.released.add(packet_id)
        self.held.discard(packet_id)
        self.passed_on.add(packet_id)
        self.sent.remove(packet_id)
        self.settled.add(packet_id)
        self.client.closed(packet_id)

    @rule(arrived=st.integers(0, 30), shrinks=st.booleans())
    def the_link_is_cut(self, arrived: int, shrinks: bool) -> None:
        """Of what was sent last the broker may have got only the first part; then less may be known of it."""
        unconfirmed = sorted(self.sent) + self.again
        for packet_id in sorted(self.sent)[arrived:]:
            self.held.discard(packet_id)
        if shrinks:
            self.known = 1
        self.again, self.sent = unconfirmed, []
        self.client = handshakes(Allowance(self.known), unconfirmed=dict.fromkeys(unconfirmed, 1))

    @invariant()
    def the_count_covers_what_the_broker_holds(self) -> None:
        if hasattr(self, "client"):
            assert self.held <= set(self.sent) | set(self.again)

    def teardown(self) -> None:
        """All that was begun can be brought to its end."""
        if not hasattr(self, "client"):
            return
        while self.again or self.sent:
            before = (len(self.again), len(self.sent))
            while self.again and self.client.takes(self.again[0]):
                self.an_alert_leaves()
            for packet_id in list(self.sent):
                self.held.discard(packet_id)
                self.sent.remove(packet_id)
                self.client.closed(packet_id)
            assert (len(self.again), len(self.sent)) != before, "stuck"


TestMosquittoWithoutAWord = MosquittoWithoutAWord.TestCase


def test_the_default_is_that_of_mosquitto() -> None:
    assert DEFAULT == 20
