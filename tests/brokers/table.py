"""The table of docs/brokers.md, from what was measured."""

from __future__ import annotations

from collections.abc import Iterable

from tests.brokers.arrivals import Arrived
from tests.brokers.catalogue import Case
from tests.brokers.main_job import Measured

COLUMNS = (
    *("broker", "connects by", "QoS 1", "alerts", "retained", "will", "restart"),
    *("owner killed", "backlog of 2,000", "catch-up", "follower"),
)


def table(results: Iterable[tuple[Case, Measured | str]]) -> str:
    """Return it as Markdown; in place of what was measured, a text that says why nothing was."""
    lines = [_line(COLUMNS), _line("---" for _ in COLUMNS)]
    for case, measured in results:
        if isinstance(measured, str):
            cells = ["did not come to its end: " + measured, *[""] * (len(COLUMNS) - 2)]
        else:
            cells = _cells(measured)
        lines.append(_line([case.name, *cells]))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(measured: Measured) -> list[str]:
    tries = f"{measured.attempts} attempt{'s' if measured.attempts != 1 else ''}"
    return [
        f"MQTT {measured.protocol}, {tries}",
        _arrived(measured.live),
        _alerts(measured),
        _retained(measured),
        "no" if measured.will_time is None else f"{measured.will_time:.1f} s",
        f"{measured.kept_ashore} of {measured.queued_ashore} queued kept",
        f"{measured.takeover_time:.1f} s; {_arrived(measured.owner_killed)}",
        f"{measured.backlog_time:.1f} s; {_arrived(measured.backlog)}",
        f"{measured.catchup_arrived} of {measured.catchup_total}, {measured.catchup_time:.1f} s",
        f"{'equal' if measured.follower_equal else 'not equal'}, {measured.follower_time:.1f} s",
    ]


def _arrived(arrived: Arrived | None) -> str:
    if arrived is None:
        return "-"
    found = f"{arrived.lost} lost"
    if arrived.repeated:
        found += f", {arrived.repeated} repeated"
    if arrived.out_of_order:
        found += f", {arrived.out_of_order} out of order"
    return found


def _alerts(measured: Measured) -> str:
    if measured.alerts_sent_at == measured.alerts_arrived_at:
        qos = f"QoS {measured.alerts_arrived_at}"
    else:
        qos = f"QoS {measured.alerts_sent_at}, delivered at {measured.alerts_arrived_at}"
    runs = (measured.live, measured.backlog, measured.owner_killed)
    repeated = sum(arrived.repeated_alerts for arrived in runs if arrived)
    return f"{qos}; {repeated} repeated"


def _retained(measured: Measured) -> str:
    if not measured.retained:
        return "no"
    found = "yes" if measured.retained_for_wildcards else "not for wildcards"
    return found if measured.retained_after_restart else f"{found}; not over a restart"
