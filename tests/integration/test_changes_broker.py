"""What a real broker refuses: put aside with its reason, in nobody's way, and sent once it may be."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from tests.support.gunicorn_app import GunicornApp, flask
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

CHANGES = "/api/mqtt/reliable-sync/changes"
ALL = "topic readwrite #\n"

Start = Callable[..., Any]


def has_state(app: GunicornApp, message_id: str, state: str) -> dict[str, Any]:
    """The change, once it is in a state."""

    def asked() -> dict[str, Any] | None:
        change: dict[str, Any] = app.get(f"{CHANGES}/{message_id}").json
        return change if change["state"] == state else None

    change = eventually(asked, 20, message=f"{message_id} is {state}")
    assert change is not None
    return change


def is_empty(app: GunicornApp) -> None:
    """Return once nothing is undelivered: a subscriber may be quicker than the acknowledgement."""
    eventually(lambda: app.health()["mqtt"]["queuedMessages"] == 0, message="the queue is empty")


def add_crew(app: GunicornApp, name: str, **fields: Any) -> tuple[dict[str, Any], str]:
    """Create a member of the crew; the row and the message id."""
    answer = app.post("/api/crew", {"name": name, **fields})
    assert answer.status == 201, answer.text
    return answer.json, answer.headers["Sync-Message-Id"]


def test_refused_by_an_acl_then_allowed_and_retried(
    start_mosquitto: Start, start_app: Start, migrated_database_url: str
) -> None:
    # `topic` rules are those of anonymous clients
    broker: Mosquitto = start_mosquitto(acl="topic deny vessel/sync/crew\n" + ALL)
    app: GunicornApp = start_app({"MQTT_BROKER_URL": broker.url})
    app.wait_connected()
    with Subscriber(broker.port, "vessel/sync/#") as ashore:
        row, refused = add_crew(app, "Ada")
        _, evicted = add_crew(app, "Bo")
        app.post("/api/equipment", {"name": "Fire pump", "type": "pump"})
        ashore.wait_until(lambda: len(ashore.changes("equipment")) == 1, 20, "the equipment")

        change = has_state(app, refused, "quarantined")
        assert change["reason"] == "the broker refused it: not authorized"
        has_state(app, evicted, "quarantined")
        listed = app.get(f"{CHANGES}?state=quarantined&entity=crew").json["items"]
        assert [item["messageId"] for item in listed] == [evicted, refused]
        assert app.health()["detailedMetrics"]["publishFailures"] == 2
        is_empty(app)

        # refused once more, for the rule still stands
        assert app.post(f"{CHANGES}/{refused}/retry", None).status == 200
        again = has_state(app, refused, "quarantined")
        assert again["seq"] > change["seq"]
        # a newer version of the row meets the same refusal
        answer = app.request("PATCH", f"/api/crew/{row['id']}", {"name": "Ada Lovelace"})
        newer = answer.headers["Sync-Message-Id"]
        has_state(app, newer, "quarantined")
        assert app.post(f"{CHANGES}/{evicted}/discard", None).json["state"] == "dropped"

        (broker.directory / "acl").write_text(ALL)
        os.kill(broker.pid, signal.SIGHUP)
        eventually(lambda: "Reloading config" in broker.log, message="the broker reads its rules")
        assert app.post(f"{CHANGES}/{refused}/retry", None).status == 200
        ashore.wait_until(lambda: len(ashore.changes("crew")) == 1, 20, "the retried change")
        (arrived,) = ashore.changes("crew")
        assert (arrived["messageId"], arrived["operation"]) == (refused, "create")
        assert (arrived["data"]["name"], arrived["version"]) == ("Ada Lovelace", 2)
        assert arrived["seq"] > again["seq"]
        has_state(app, refused, "delivered")

        # the rest by the command line, beside the live server
        settings = {
            "LOCAL_MODE": "true",
            "SECRET_KEY": "for-tests-only-and-long-enough",
            "DATABASE_URL": migrated_database_url,
        }
        assert flask("sync", "queue", "retry", "--all", "--yes", settings=settings) == "1 retried\n"
        has_state(app, newer, "delivered")
        later, message_id = add_crew(app, "Cy")
        has_state(app, message_id, "delivered")
        crew = ashore.changes("crew")
        assert [change["messageId"] for change in crew] == [refused, newer, message_id]
        assert [change["seq"] for change in crew] == sorted(change["seq"] for change in crew)
        assert crew[2]["previousSeq"] == crew[1]["seq"]
        assert later["id"] == crew[2]["data"]["id"]
        is_empty(app)
        assert app.health()["detailedMetrics"]["messagesDropped"] == 1


def test_too_large_then_shortened_and_retried_across_a_restart(
    start_mosquitto: Start, start_app: Start, migrated_database_url: str
) -> None:
    broker: Mosquitto = start_mosquitto(options=["message_size_limit 2000"])
    app: GunicornApp = start_app({"MQTT_BROKER_URL": broker.url})
    app.wait_connected()
    with Subscriber(broker.port, "vessel/sync/#") as ashore:
        row, large = add_crew(app, "Ada", notes="x" * 3000)
        _, small = add_crew(app, "Bo")
        has_state(app, small, "delivered")
        assert has_state(app, large, "quarantined")["reason"].endswith("packet too large")

        answer = app.request("PATCH", f"/api/crew/{row['id']}", {"notes": "short"})
        has_state(app, answer.headers["Sync-Message-Id"], "delivered")
        # retried while nobody owns the session: the next owner numbers it
        app.stop()
        settings = {
            "LOCAL_MODE": "true",
            "SECRET_KEY": "for-tests-only-and-long-enough",
            "DATABASE_URL": migrated_database_url,
        }
        assert flask("sync", "queue", "retry", large, settings=settings) == "1 retried\n"
        app.start()
        has_state(app, large, "delivered")
        seen = [change for change in ashore.changes("crew") if change["messageId"] == large]
        assert [change["data"]["notes"] for change in seen] == ["short"]
        is_empty(app)
