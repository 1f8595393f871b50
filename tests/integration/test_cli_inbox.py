"""`flask sync inbox`: what could not be handled is seen, handed over again, or discarded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask

from arus.inbound.handlers import Message
from tests.support import small_app as small

Run = Callable[..., Result]
FILTER = "vessel/sync/+/orders"
_PARK = sa.text(
    "INSERT INTO arus_parked (topic, payload, topic_filter, reason, attempts, parked_at)"
    " VALUES (:topic, :payload, :filter, 'KeyError: no such order', 6, 1795334400000)"
)


@pytest.fixture
def ship(small_database_url: str) -> Iterator[Flask]:
    """An application that was sent three orders it could not handle."""
    with small.small_app(small_database_url) as app:
        with small.db.engine.begin() as connection:
            for number in (1, 2, 3):
                order = {"topic": f"vessel/sync/{number}/orders", "filter": FILTER}
                connection.execute(_PARK, {**order, "payload": b'{"order": %d}' % number})
        yield app


@pytest.fixture
def handled(ship: Flask) -> Iterator[list[int]]:
    """The orders that the application's handler has taken; it takes all but the second."""
    orders: list[int] = []

    @small.sync.subscribe(FILTER)
    def ordered(message: Message) -> None:
        order = message.json()["order"]
        if order == 2:
            raise KeyError("still no such order")
        orders.append(order)

    yield orders
    small.sync.unsubscribe(FILTER)


@pytest.fixture
def run(ship: Flask) -> Run:
    """Runs `flask sync inbox ...`."""

    def run(*words: str, stdin: str | None = None) -> Result:
        return ship.test_cli_runner().invoke(args=["sync", "inbox", *words], input=stdin)

    return run


def ids(run: Run) -> list[int]:
    return [json.loads(line)["id"] for line in run("list", "--json").stdout.splitlines()]


def test_they_are_listed_newest_first(run: Run) -> None:
    lines = run("list", "--limit", "2").stdout.splitlines()
    assert lines[0].split() == ["id", "since", "tries", "topic,", "and", "why"]
    assert "vessel/sync/3/orders: KeyError: no such order" in lines[1]
    assert len(lines) == 3
    assert ids(run) == sorted(ids(run), reverse=True)


def test_one_is_shown_with_its_payload(run: Run) -> None:
    shown = json.loads(run("show", str(ids(run)[0])).stdout)
    assert shown["payload"] == '{"order": 3}'
    assert shown["topicFilter"] == FILTER
    assert shown["parkedAt"].endswith("Z")


def test_they_are_handed_over_again_oldest_first_and_one_that_fails_stays(
    run: Run, handled: list[int]
) -> None:
    second = ids(run)[1]
    done = run("replay", "--all", "--yes")
    assert done.exit_code == 1
    assert done.stdout == "2 replayed\n"
    assert done.stderr == f"Error: message {second} stays: KeyError: 'still no such order'\n"
    assert handled == [1, 3]
    assert ids(run) == [second]


def test_where_nobody_listens_any_more_they_stay(run: Run) -> None:
    done = run("replay", str(ids(run)[0]))
    assert done.exit_code == 1
    assert "nobody subscribes" in done.stderr
    assert len(ids(run)) == 3


def test_they_are_discarded(run: Run) -> None:
    first, *others = ids(run)
    assert run("discard", str(first)).stdout == "1 discarded\n"
    assert ids(run) == others
    assert run("discard", "--all", stdin="n\n").exit_code == 1
    assert ids(run) == others
    assert run("discard", "--all", stdin="y\n").exit_code == 0
    empty = run("list")
    assert (empty.stdout, empty.stderr, empty.exit_code) == ("", "no dead letters\n", 0)


@pytest.mark.parametrize("number", ["999999", str(2**63), f"-{10**30}"])
@pytest.mark.parametrize("verb", ["show", "replay", "discard"])
def test_one_that_is_not_there(run: Run, verb: str, number: str) -> None:
    done = run(verb, "--", number)
    assert done.exit_code == 1
    assert f"there is no dead letter {number}" in done.stderr


@pytest.mark.parametrize("words", [["replay"], ["discard", "--all", "7"], ["show", "seven"]])
def test_usage(run: Run, words: list[str]) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("Error: ")


def test_without_a_command_the_help_is_shown_in_lines(run: Run) -> None:
    done = run()
    assert done.stderr.splitlines()[0] == "Usage: small sync inbox [OPTIONS] COMMAND [ARGS]..."
    assert "  replay " in done.stderr
