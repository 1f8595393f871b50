"""What must be true after everything has healed, from what was promised and what arrived.

Independent accounts are compared: the 2xx answers that the writers got, the change log, what two real
subscribers received, and the packets that the link has seen. The last also decides whether a message
that was lost or repeated around the end of a broker was the broker's to lose (README.md).
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.faults.faults import Fault
from tests.faults.link import Packet
from tests.faults.writers import Ledger
from tests.support.subscriber import Received

#: A broker may forget what it did in so many seconds before it was killed.
BROKER_MEMORY = 1.0

#: Seconds for which a fault that is over may still be felt.
_AFTERMATH = 2.0

_CONNACK, _PUBLISH, _PUBACK, _PUBREC, _PUBREL, _PUBCOMP = 2, 3, 4, 5, 6, 7
_ACKNOWLEDGES = {_PUBACK, _PUBREC, _PUBCOMP}
_PREFIX = "vessel/sync/"


@dataclass
class Verdict:
    """What came out."""

    obligations: int = 0
    in_doubt: int = 0
    #: writes answered 503 that were committed all the same
    refused_yet_committed: int = 0
    changes: int = 0
    seen: int = 0
    repeated_qos1: int = 0
    #: lost or repeated by a broker that was killed, proved by the link's account
    broker_lost: int = 0
    broker_repeated: int = 0
    #: by kind of fault, seconds from its end until the next first delivery
    recovery: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    #: the same of those during which, and until which, nothing else went wrong
    recovery_alone: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    #: what must not be, in words
    failures: list[str] = field(default_factory=list)
    #: of the failures, by kind
    counts: Counter[str] = field(default_factory=Counter)

    def fail(self, kind: str, what: str) -> None:
        """Note something that must not be."""
        self.counts[kind] += 1
        if self.counts[kind] <= 5:
            self.failures.append(f"{kind}: {what}")


@dataclass(frozen=True)
class Account:
    """All that is known at the end of a run."""

    ledger: Ledger
    #: the change log's rows
    log: Sequence[dict[str, Any]]
    #: the resources' rows as the API shows them, by entity and id
    rows: dict[tuple[str, str], dict[str, Any]]
    shore: Sequence[Received]
    witness: Sequence[Received]
    #: new alerts that the shore had to take for repeats of others (DurableSubscriber.mistaken)
    mistaken: int
    packets: Sequence[Packet]
    faults: Sequence[Fault]
    broker_kills: Sequence[float]
    broker_stops: Sequence[float]


def judge(account: Account) -> Verdict:
    """Compare the accounts."""
    verdict = Verdict()
    seen = _changes(account.shore)
    _check_promises(account, verdict)
    _check_log(account, verdict)
    broker = _Broker(account)
    _check_arrivals(account, seen, broker, verdict)
    _check_order(seen, verdict)
    _check_rows(account, seen, broker, verdict)
    _check_handshakes(account, verdict)
    for name, messages in (("shore", account.shore), ("witness", account.witness)):
        _check_alerts(name, _changes(messages), broker, verdict)
    _measure_recovery(account, seen, verdict)
    return verdict


@dataclass(frozen=True)
class _Seen:
    at: float
    topic: str
    payload: str
    change: dict[str, Any]


def _changes(messages: Sequence[Received]) -> list[_Seen]:
    return [
        _Seen(message.at, message.topic.removeprefix(_PREFIX), message.payload, change)
        for message in messages
        if message.payload and (change := message.json).get("type") == "data_change"
    ]


def _check_promises(account: Account, verdict: Verdict) -> None:
    ledger = account.ledger
    verdict.obligations = len(ledger.obligations)
    verdict.in_doubt = len(ledger.doubts)
    for surprise in ledger.surprises:
        verdict.fail("unexpected answer", surprise)
    by_message = {row["message_id"]: row for row in account.log}
    by_row = {(row["entity"], row["row_id"], _version(row)): row for row in account.log}
    for promise in ledger.obligations:
        key = (promise.entity, promise.row_id, promise.version)
        row = by_message.get(promise.message_id or "") or by_row.get(key)
        if row is None:
            verdict.fail("promise not in the change log", str(promise))
        elif (*_key(row), _version(row), row["operation"]) != (*key, promise.operation):
            verdict.fail("promise and change log differ", f"{promise} {row}")
    for doubt in ledger.doubts:
        if doubt.status == 503 and (doubt.entity, doubt.row_id, doubt.version + 1) in by_row:
            verdict.refused_yet_committed += 1


def _key(row: dict[str, Any]) -> tuple[str, str]:
    return row["entity"], row["row_id"]


def _version(row: dict[str, Any]) -> int:
    version: int = row["version"]
    return version


def _check_log(account: Account, verdict: Verdict) -> None:
    verdict.changes = len(account.log)
    heads: dict[str, int] = defaultdict(int)
    versions: dict[tuple[str, str], int] = defaultdict(int)
    ordered = sorted(account.log, key=lambda row: row["seq"] or 0)
    for expected, row in enumerate(ordered, 1):
        if row["seq"] != expected:
            verdict.fail("hole in seq", f"{expected} is missing, or {row}")
            return
        if row["previous_seq"] != heads[row["topic"]]:
            verdict.fail("previousSeq", f"{row}, expected {heads[row['topic']]}")
        heads[row["topic"]] = row["seq"]
        if row["version"] != versions[_key(row)] + 1:
            verdict.fail("versions of a row not in seq order", str(row))
        versions[_key(row)] = row["version"]
        if row["outcome"] is not None:  # no queue was ever full, nothing was ever refused
            verdict.fail("not delivered", str(row))


class _Broker:
    """What a killed broker had taken responsibility for, by the link's account."""

    def __init__(self, account: Account) -> None:
        self._kills = account.broker_kills
        self._stops = account.broker_stops
        self._mistaken = account.mistaken
        self._excused: set[str] = set()
        #: alerts whose handshake the broker has completed
        self._completed: set[str] = set()
        #: by message, when the broker acknowledged it
        self._acknowledged: dict[str, list[float]] = defaultdict(list)
        self.publishes: dict[str, list[Packet]] = defaultdict(list)
        ids: dict[int, str] = {}
        for packet in account.packets:
            if packet.kind == _PUBLISH and packet.outward:
                if packet.message_id is None:
                    continue
                ids[packet.packet_id] = packet.message_id
                self.publishes[packet.message_id].append(packet)
            message_id = ids.get(packet.packet_id)
            if message_id is not None and packet.kind in _ACKNOWLEDGES and not packet.outward:
                self._acknowledged[message_id].append(packet.at)
                if packet.kind == _PUBCOMP:
                    self._completed.add(message_id)

    def lost(self, row: dict[str, Any]) -> bool:
        """Whether the broker lost a message that did not arrive.

        It acknowledged it just before a SIGKILL; or it completed an alert's handshake, and a new message
        under a packet id in use explains the loss, each such one the loss of one alert.
        """
        message_id: str = row["message_id"]
        if message_id in self._excused:
            return True
        excused = any(
            _just_before(moment, kill)
            for moment in self._acknowledged[message_id]
            for kill in self._kills
        )
        if not excused and message_id in self._completed and self._mistaken:
            self._mistaken -= 1
            excused = True
        if excused:
            self._excused.add(message_id)
        return excused

    def repeated(self, received: Sequence[float]) -> bool:
        """Whether before each repeat the broker ended when it had just handed the message over."""
        return all(
            any(before < stop + 0.1 < after and _just_before(before, stop) for stop in self._stops)
            for before, after in pairwise(received)
        )


def _just_before(moment: float, end: float) -> bool:
    # the last bytes of a dead broker may be read a little later
    return end - BROKER_MEMORY < moment < end + 0.1


def _check_arrivals(
    account: Account, seen: Sequence[_Seen], broker: _Broker, verdict: Verdict
) -> None:
    logged = {row["message_id"]: row for row in account.log}
    first: dict[str, _Seen] = {}
    for message in seen:
        message_id = message.change["messageId"]
        row = logged.get(message_id)
        if row is None:
            verdict.fail("never committed", message.payload)
            continue
        known = first.setdefault(message_id, message)
        if known is message:
            told = tuple(message.change[name] for name in ("seq", "previousSeq", "version"))
            if told != (row["seq"], row["previous_seq"], row["version"]):
                verdict.fail("message and change log differ", f"{message.payload} {row}")
        elif known.payload != message.payload:
            verdict.fail("repeated with other bytes", f"{known.payload} {message.payload}")
        elif row["qos"] == 1:
            verdict.repeated_qos1 += 1
    verdict.seen = len(first)
    for message_id, row in logged.items():
        if message_id in first:
            continue
        if broker.lost(row):
            verdict.broker_lost += 1
        else:
            passed = broker.publishes.get(message_id, [])
            verdict.fail("lost", f"{row}; on the wire: {passed}")


def _check_order(seen: Sequence[_Seen], verdict: Verdict) -> None:
    highest: dict[str, int] = defaultdict(int)
    first: set[str] = set()
    for message in seen:
        if message.change["messageId"] in first:
            continue
        first.add(message.change["messageId"])
        seq = message.change["seq"]
        if seq <= highest[message.topic]:
            verdict.fail("out of order", f"{seq} after {highest[message.topic]}: {message.topic}")
        highest[message.topic] = max(highest[message.topic], seq)


def _check_rows(account: Account, seen: Sequence[_Seen], broker: _Broker, verdict: Verdict) -> None:
    """Whoever applies what is newer must end up with the vessel's tables."""
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for message in seen:
        change = message.change
        key = change["entity"], change["data"]["id"]
        if key not in last or change["version"] > last[key]["version"]:
            last[key] = change
    arrived = {message.change["messageId"] for message in seen}
    missing = [row for row in account.log if row["message_id"] not in arrived]
    excused = {_key(row) for row in missing if broker.lost(row)}
    ashore = {key: row["data"] for key, row in last.items() if row["operation"] != "delete"}
    for key in account.rows.keys() | ashore.keys():
        if account.rows.get(key) != ashore.get(key) and key not in excused:
            verdict.fail("ship and shore differ", f"{account.rows.get(key)} and {ashore.get(key)}")


def _check_alerts(name: str, seen: Sequence[_Seen], broker: _Broker, verdict: Verdict) -> None:
    receipts: dict[str, list[float]] = defaultdict(list)
    for message in seen:
        if message.topic == "alerts":
            receipts[message.change["messageId"]].append(message.at)
    for message_id, moments in receipts.items():
        packet_ids = {packet.packet_id for packet in broker.publishes[message_id]}
        if len(packet_ids) > 1:
            verdict.fail("alert under two packet ids", f"{message_id}: {packet_ids}")
        if len(moments) == 1:
            continue
        if broker.repeated(moments):
            verdict.broker_repeated += 1
        else:
            passed = broker.publishes[message_id]
            verdict.fail("alert repeated", f"{name}: {message_id} at {moments}, sent {passed}")


def _check_handshakes(account: Account, verdict: Verdict) -> None:  # noqa: C901  # one rule a branch, read from top to bottom
    """What left the ship must have been exactly-once by itself, whatever brokers made of it."""
    alive = 0
    message_ids: dict[int, str] = {}
    confirmed: set[int] = set()
    released: set[int] = set()
    done: set[str] = set()
    for packet in account.packets:
        if packet.kind == _CONNACK:
            alive = max(alive, packet.connection)
            if not packet.session_present:
                confirmed.clear()
                released.clear()
        if packet.outward and packet.connection < alive:
            continue  # the broker has closed this one: what it says is not heard
        key = packet.packet_id
        if packet.kind == _PUBLISH and packet.qos == 2 and packet.message_id:
            if key in released or packet.message_id in done:
                verdict.fail("alert published after its release", str(packet))
            message_ids[key] = packet.message_id
        elif packet.kind == _PUBREC and not packet.outward:
            confirmed.add(key)
        elif packet.kind == _PUBREL and packet.outward and key in message_ids:
            if key not in confirmed:
                verdict.fail("alert released unconfirmed", f"{packet} {message_ids[key]}")
            released.add(key)
        elif packet.kind == _PUBCOMP and not packet.outward and key in message_ids:
            done.add(message_ids.pop(key))
            confirmed.discard(key)
            released.discard(key)


def _measure_recovery(account: Account, seen: Sequence[_Seen], verdict: Verdict) -> None:
    first: dict[str, float] = {}
    for message in seen:
        first.setdefault(message.change["messageId"], message.at)
    moments = sorted(first.values())
    for fault in account.faults:
        after = next((moment for moment in moments if moment >= fault.ended), None)
        if after is None:
            continue
        verdict.recovery[fault.kind].append(after - fault.ended)
        if not any(
            other is not fault and other.began < after and other.ended > fault.began - _AFTERMATH
            for other in account.faults
        ):
            verdict.recovery_alone[fault.kind].append(after - fault.ended)


def table(verdicts: Sequence[tuple[Verdict, Sequence[Fault]]]) -> str:
    """The figures of several runs."""
    counts = Counter(fault.kind for _, faults in verdicts for fault in faults)
    lines = [f"{'':<26} {'':>5}  seconds to the next delivery: median, max"]
    lines += [f"{'fault':<26} {'count':>5} {'any':>15} {'alone':>17}"]
    for kind, count in sorted(counts.items()):
        every = [one for verdict, _ in verdicts for one in verdict.recovery[kind]]
        alone = [one for verdict, _ in verdicts for one in verdict.recovery_alone[kind]]
        lines.append(f"{kind:<26} {count:>5} {_spread(every)} {_spread(alone)}")
    lines.append(f"{'faults':<26} {counts.total():>5}")
    sums = {
        name: sum(getattr(verdict, name) for verdict, _ in verdicts)
        for name in (
            "obligations",
            "in_doubt",
            "refused_yet_committed",
            "changes",
            "seen",
            "repeated_qos1",
            "broker_lost",
            "broker_repeated",
        )
    }
    failures: Counter[str] = Counter()
    for verdict, _ in verdicts:
        failures.update(verdict.counts)
    for kind in ("lost", "out of order", "alert repeated", "hole in seq"):
        failures.setdefault(kind, 0)
    lines.append("")
    lines += [f"{name.replace('_', ' '):<26} {value:>5}" for name, value in sums.items()]
    lines += [f"{kind:<26} {value:>5}" for kind, value in sorted(failures.items())]
    return "\n".join(lines)


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return f"{'-':>7} {'-':>7}      "
    return f"{statistics.median(seconds):>7.2f} {max(seconds):>7.2f} ({len(seconds):>3})"
