"""deploy/prometheus and deploy/grafana, with the real Prometheus, on what the app really exports."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask
from werkzeug.serving import make_server

from extensions import sync
from tests.support.broker import DEPLOY, adapted
from tests.support.certificates import Certificates
from tests.support.mosquitto import Mosquitto
from tests.support.prometheus import (
    FILES,
    BlackboxExporter,
    Prometheus,
    promtool,
    scraped,
    series,
)
from tests.support.waiting import eventually, free_port

#: Prometheus is installed for `make test` alone.
pytestmark = pytest.mark.slow

#: The labels that Prometheus gives the vessel.
TARGET = {"job": "arus", "instance": "127.0.0.1:8000", "vessel": "imo-9321483"}
RULES = [FILES / "arus.rules.yml", FILES / "arus.alerts.yml"]
METRIC = re.compile(r"\b(?:arus_mqtt|flask)_\w+")
GIGABYTE = 10**9


@pytest.fixture(params=["sqlite"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Only a SQLite database has a disk that the app can see."""
    return str(request.param)


@pytest.fixture
def ship(
    make_app: Callable[..., Flask],
    migrated_database_url: str,
    start_mosquitto: Callable[..., Mosquitto],
    certificates: Certificates,
) -> Flask:
    """A connected vessel with TLS, of which a follower ashore has an equal copy."""
    broker = start_mosquitto(certificates=certificates, client_certificates=True)
    app = make_app(
        migrated_database_url,
        MQTT_BROKER_URL=broker.tls_url,
        MQTT_TLS_CA=str(certificates.ca),
        MQTT_TLS_CERT=str(certificates.client_cert),
        MQTT_TLS_KEY=str(certificates.client_key),
    )
    sync.start(app)
    client = app.test_client()
    assert client.post("/api/crew", json={"name": "Bosun"}).status_code == 201

    def status() -> Any:
        with app.app_context():
            return sync.runtime().status()

    eventually(lambda: status().connected and status().depth == 0, message="all is delivered")
    verdict = {"seq": 1, "timestamp": "2026-11-22T08:00:00.000Z", "equal": True, "entities": {}}
    told = {"epoch": status().epoch, "seq": status().head_seq, "audit": verdict}
    broker.publish("vessel/sync/watermarks/shore", json.dumps(told), "-r")
    eventually(lambda: 'audit_equal{follower="shore"} 1.0' in metrics(app), message="the audit")
    return app


def metrics(app: Flask) -> str:
    """A scrape."""
    answer = app.test_client().get("/metrics")
    assert answer.status_code == 200
    return answer.text


@contextmanager
def served(app: Flask) -> Iterator[int]:
    """The app on a port."""
    server = make_server("127.0.0.1", free_port(), app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# -- the configuration ---------------------------------------------------------------------------


def test_promtool_accepts_the_configurations_and_the_rules(tmp_path: Path) -> None:
    assert "SUCCESS" in promtool("check", "config", FILES / "ship.yml")
    promtool("check", "rules", *RULES)
    token = tmp_path / "arus.token"
    token.touch()
    shore = adapted(FILES / "shore.yml", {"/etc/prometheus/arus.token": str(token)})
    for name in (*(path.name for path in RULES), "vessels/example.yml"):
        place = tmp_path / name
        place.parent.mkdir(exist_ok=True)
        place.write_text((FILES / name).read_text())
    (tmp_path / "prometheus.yml").write_text(shore)
    assert "SUCCESS" in promtool("check", "config", tmp_path / "prometheus.yml")


# -- the rules -----------------------------------------------------------------------------------

#: By alert: the series that differ from a calm vessel's, as promtool writes values minute by minute; the minute
#: at which it does not fire yet, and one at which it does.
CASES: dict[str, tuple[dict[str, str], int, int]] = {
    "ArusDown": ({"up": "1x9 0x300"}, 12, 16),
    "ArusNoOwner": ({"arus_mqtt_owner_present": "1x9 0x300"}, 11, 13),
    "ArusLinkDown": ({"arus_mqtt_disconnected_seconds": "0+60x700"}, 240, 241),
    "ArusLinkDownLong": ({"arus_mqtt_disconnected_seconds": "0+600x400"}, 288, 289),
    "ArusLinkUnstable": ({"arus_mqtt_connection_status": "1x30 0 1 0 1 0 1 0 1 0 1 0 1 0 1x300"}, 40, 44),
    "ArusQueueDeep": ({"arus_mqtt_queue_depth": "1000x9 1001x300"}, 14, 16),
    "ArusQueueNearlyFull": ({"arus_mqtt_queue_utilization_percent": "80x9 81x300"}, 14, 16),
    "ArusQueueGrowing": ({"arus_mqtt_queue_depth": "0+5x199"}, 45, 60),
    "ArusNothingAcknowledged": ({"arus_mqtt_stalled": "0x9 1x300"}, 14, 16),
    "ArusOldestChange": ({"arus_mqtt_oldest_change_seconds": "0+60x300"}, 60, 61),
    "ArusChangesQuarantined": ({"arus_mqtt_quarantined_changes": "0x9 1x300"}, 14, 16),
    "ArusChangesDropped": ({"arus_mqtt_messages_dropped_total": "7x9 8x300"}, 9, 11),
    "ArusChangesUncaptured": ({"arus_mqtt_uncaptured_statements_total": "0x9 1x300"}, 9, 11),
    "ArusDeadLetters": ({"arus_mqtt_dead_letters": "0x9 1x300"}, 14, 16),
    "ArusFollowerBehind": ({"arus_mqtt_follower_lag_seconds": "0+60x300"}, 74, 77),
    "ArusAuditDiffers": ({"arus_mqtt_follower_audit_equal": "1x9 0x300"}, 39, 41),
    "ArusRowsRefused": ({"arus_mqtt_follow_refused_total": "0x9 1x300"}, 9, 11),
    "ArusCertificateExpiring": (
        {'arus_mqtt_certificate_expiry_timestamp_seconds{certificate="client"}': "2594400x300"}, 40, 41,
    ),
    "ArusBrokerCertificateExpiring": ({"probe_ssl_earliest_cert_expiry": "2594400x300"}, 40, 41),
    "ArusDiskNearlyFull": ({"arus_mqtt_disk_free_bytes": "524288000x9 524287999x300"}, 14, 16),
    "ArusServerErrors": ({"flask_http_request_total": "0x9 6x300"}, 9, 11),
}  # fmt: skip
#: What Prometheus and the blackbox exporter add to the vessel's series.
ADDED = {
    series("up", **TARGET): 1.0,
    series("probe_ssl_earliest_cert_expiry", job="arus_broker", instance="broker:8883"): 2e9,
}


def calm_vessel(app: Flask) -> dict[str, str]:
    """The series of a vessel that is well, as promtool takes them; the machine's own room does not count."""
    found = {**scraped(metrics(app), **TARGET), **ADDED}
    found[series("arus_mqtt_disk_free_bytes", **TARGET)] = 50 * GIGABYTE
    return {name: f"{value:.17g}x300" for name, value in found.items()}


def changed(calm: dict[str, str], change: dict[str, str]) -> dict[str, str]:
    """The series with other values for one of each name; the vessel exports it, or the test fails."""
    result = dict(calm)
    for wanted, values in change.items():
        name, _, label = wanted.removesuffix("}").partition("{")
        (key,) = [one for one in calm if one.startswith(f"{name}{{") and label in one][:1]
        if name == "flask_http_request_total":
            key = re.sub(r'status="\d+"', 'status="500"', key)
        result[key] = values
    return result


def rule_test(values: dict[str, str], expected: dict[int, set[str]]) -> dict[str, Any]:
    """A test of promtool: which alerts fire at which minute."""
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": each} for name, each in values.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minute}m",
                "exp_samples": [
                    {"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(firing)
                ],
            }
            for minute, firing in expected.items()
        ],
    }


def test_each_alert_fires_in_its_case_and_none_for_a_calm_vessel(
    ship: Flask, tmp_path: Path
) -> None:
    rules = [rule for file in RULES for group in load(file)["groups"] for rule in group["rules"]]
    assert {rule["alert"] for rule in rules if "alert" in rule} == set(CASES)
    calm = calm_vessel(ship)
    tests = [rule_test(calm, {0: set(), 290: set()})]
    # longer cases pass through those of the shorter limits
    along = {"ArusLinkDownLong": {"ArusLinkDown"}}
    for alert, (change, before, after) in CASES.items():
        others = along.get(alert, set())
        values = changed(calm, change)
        tests.append(rule_test(values, {before: others, after: {alert, *others}}))
    suite = {"rule_files": [str(path) for path in RULES], "evaluation_interval": "1m"}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({**suite, "tests": tests}))
    promtool("test", "rules", tmp_path / "tests.yml")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_the_vessel_exports_each_metric_of_the_rules_and_dashboards(ship: Flask) -> None:
    exported = {re.split(r"\{", name)[0] for name in scraped(metrics(ship))}
    used = set(METRIC.findall("".join(path.read_text() for path in RULES)))
    used |= set(METRIC.findall("".join(path.read_text() for path in dashboards())))
    recorded = {rule["record"] for group in load(RULES[0])["groups"] for rule in group["rules"]}
    recorded = {name.split(":")[1] for name in recorded}
    assert used - exported - recorded == set()


# -- the dashboards ------------------------------------------------------------------------------


def dashboards() -> list[Path]:
    return sorted((DEPLOY / "grafana").glob("*.json"))


def queries(path: Path) -> Iterator[tuple[str, str]]:
    """The titles and queries of a dashboard, its variables filled in as Grafana does."""
    board = json.loads(path.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            expression = re.sub(r"\$(instance|vessel)", ".*", target["expr"])
            yield panel["title"], expression.replace("$__rate_interval", "1m")
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            inside = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"]["query"])
            assert inside, variable
            yield variable["label"], inside[1]


def shows_numbers(ship: Flask, prometheus: Prometheus, expression: str) -> bool:
    assert ship.test_client().get("/crew").status_code == 200  # somebody is on board
    values = [float(one["value"][1]) for one in prometheus.query(expression)]
    return bool(values) and not any(map(math.isnan, values))


def test_each_query_of_a_dashboard_shows_something_of_a_vessel_that_prometheus_scrapes(
    ship: Flask, tmp_path: Path
) -> None:
    with served(ship) as port:
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(path) for path in RULES],
            "scrape_configs": [
                {
                    "job_name": "arus",
                    "static_configs": [
                        {"targets": [f"127.0.0.1:{port}"], "labels": {"vessel": "imo-9321483"}}
                    ],
                }
            ],
        }
        with Prometheus(tmp_path / "prometheus", yaml.safe_dump(config)) as prometheus:
            for path in dashboards():
                for title, expression in queries(path):
                    eventually(
                        partial(shows_numbers, ship, prometheus, expression),
                        30,
                        interval=0.2,
                        message=f"{path.name}, {title}: {expression}",
                    )
            groups = prometheus.ask("rules")["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            assert {rule["health"] for rule in rules} == {"ok"}, rules


# -- the broker's certificate --------------------------------------------------------------------


def test_the_blackbox_exporter_reads_the_certificate_of_the_broker(
    start_mosquitto: Callable[..., Mosquitto], certificates: Certificates, tmp_path: Path
) -> None:
    broker = start_mosquitto(certificates=certificates)
    ship = load(FILES / "ship.yml")
    (job,) = [one for one in ship["scrape_configs"] if one["job_name"] == "arus_broker"]
    with BlackboxExporter(tmp_path / "blackbox") as exporter:
        job["static_configs"] = [{"targets": [f"localhost:{broker.tls_port}"]}]
        (address,) = [one for one in job["relabel_configs"] if one["target_label"] == "__address__"]
        address["replacement"] = f"127.0.0.1:{exporter.port}"
        job |= {"scrape_interval": "2s", "scrape_timeout": "2s"}  # of it 0.5 s are kept back
        config = yaml.safe_dump({"scrape_configs": [job]})
        with Prometheus(tmp_path / "prometheus", config) as prometheus:
            expiry = 'probe_ssl_earliest_cert_expiry{job="arus_broker"} - time() > 0'
            (found,) = eventually(lambda: prometheus.query(expiry), 30, interval=0.2)
    assert found["metric"]["instance"] == f"localhost:{broker.tls_port}"
