"""`flask sync hand-over`: what it says, and when it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import Result
from flask import Flask

from extensions import db

_VESSEL = "INSERT INTO arus_vessel (vessel_id, epoch, heard_at, online) VALUES ('{name}', 'e', 0, {online})"
_ROW = (
    "INSERT INTO arus_row (vessel_id, entity, row_id, version, seq, hash, bucket)"
    " VALUES ('old', 'crew', 'c1', 1, 1, 'x', 0)"
)


@pytest.fixture
def shore(make_app: Callable[..., Flask], migrated_database_url: str) -> Flask:
    """A follower's application, with a vessel that is away and one that is online."""
    app = make_app(migrated_database_url, LOCAL_MODE="false")
    with app.app_context(), db.engine.begin() as connection:
        for name, online in (("old", "false"), ("new", "true")):
            connection.exec_driver_sql(_VESSEL.format(name=name, online=online))
        connection.exec_driver_sql(_ROW)
    return app


def hand_over(app: Flask, *words: str) -> Result:
    return app.test_cli_runner().invoke(args=["sync", "hand-over", *words])


def test_it_says_what_was_handed_over(shore: Flask) -> None:
    done = hand_over(shore, "old", "new")
    assert done.exit_code == 0, done.output
    assert "1 crew of old belong to new now" in done.output
    assert "old is not followed any more" in done.output
    again = hand_over(shore, "old", "new")
    assert (again.exit_code, again.output) == (1, "Error: no vessel 'old' is followed\n")


def test_it_refuses_while_a_follower_runs(shore: Flask) -> None:
    with shore.app_context(), shore.extensions["arus"].lock.hold():
        done = hand_over(shore, "old", "new")
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert "a follower is running on this database: stop it" in done.output
