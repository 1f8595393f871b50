"""On a full disk what was accepted is delivered when the link is back, without a person, and no process ends."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support import full_disk
from tests.support.gunicorn_app import ROOT, clean_environment
from tests.support.namespaces import unshare


@pytest.mark.slow
@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_what_was_accepted_is_delivered_once_though_the_disk_is_full(
    tmp_path: Path, journal_mode: str
) -> None:
    found = full_disk.run(tmp_path, journal_mode)
    assert len(found["committed"]) > 50, "the disk was not empty"
    assert (found["depth"], found["owned"]) == (0, True)
    assert found["kept"] > 0.9, "the reserve is there for the next time"
    says, fix = found["told"]
    assert "the application's writes fail" in says
    assert fix.startswith("make room in ")
    assert found["told later"] is None
    received = [message_id for _, message_id in found["received"]]
    assert set(received) == set(found["committed"])
    alerts = Counter(message_id for entity, message_id in found["received"] if entity == "alerts")
    assert set(alerts.values()) == {1}


COUNTING = """
import sys
from pathlib import Path
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.multiprocess import MultiProcessCollector
from extensions.metric_files import use_reserved_files
from tests.support.full_disk import mount

disk = Path(sys.argv[1])
disk.mkdir()
mount(disk, "200k")
use_reserved_files()
requests = Counter("requests", "Requests", ["path"], registry=None)
requests.labels("/").inc()
try:
    with (disk / "logs").open("wb", buffering=0) as file:
        while file.write(bytes(4096)): pass
except OSError:
    pass
for number in range(2000):
    requests.labels(f"/{number}").inc()
up = Gauge("up", "Up", registry=None, multiprocess_mode="max")
up.set(1)
counted = sum(requests.labels(f"/{number}")._value.get() for number in range(2000))
families = MultiProcessCollector(CollectorRegistry(), str(disk)).collect()
print(counted, up._value.get(), [family.name for family in families])
"""


@pytest.mark.slow
def test_a_worker_goes_on_though_the_disk_of_its_metrics_is_full(tmp_path: Path) -> None:
    done = subprocess.run(
        [*unshare("--mount"), sys.executable, "-c", COUNTING, str(tmp_path / "disk")],
        cwd=ROOT,
        env=clean_environment(PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "disk")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stdout == "2000.0 1.0 ['requests']\n"
    assert "are missing in /metrics" in done.stderr
