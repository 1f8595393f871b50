from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "arus" / "web"
VENDOR = WEB / "static" / "vendor"
SUMS = {
    name: digest
    for digest, name in (line.split() for line in (VENDOR / "SHA256SUMS").read_text().splitlines())
}
TEMPLATES = sorted([*(WEB / "templates").rglob("*.html"), *(ROOT / "examples").rglob("*.html")])


def test_every_vendored_file_is_listed() -> None:
    assert set(SUMS) == {path.name for path in VENDOR.iterdir()} - {"SHA256SUMS"}


@pytest.mark.parametrize("name", SUMS)
def test_a_vendored_file_is_as_published(name: str) -> None:
    assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == SUMS[name]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_hold_no_inline_code_and_no_foreign_addresses(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)
    assert not re.search(r"(?:src|href|action)=[\"'](?:https?:)?//", text)


def test_our_scripts_and_styles_name_no_foreign_address() -> None:
    for path in (*WEB.glob("static/*.js"), *WEB.glob("static/*.css")):
        assert not re.search(r"https?://|@import|url\(", path.read_text()), path.name


def test_the_package_needs_none_of_the_vessel_apps_libraries() -> None:
    others = [
        "flask_smorest",
        "flask_babel",
        "flask_limiter",
        "flask_migrate",
        "extensions",
        "blueprints",
    ]
    code = f"import sys; sys.modules.update(dict.fromkeys({others})); import arus, arus.web"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


_CANDIDATE = """
import sys
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from arus import ReliableSync, runtime
from arus.errors import UnsupportedClientError

app = Flask("ship")
app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://", LOCAL_MODE=True)
db = SQLAlchemy(app)
with app.app_context():
    ReliableSync().init_app(app, db)
assert "paho" not in sys.modules, "no command needs it"
from paho.mqtt.client import Client
del Client._packet_queue
try:
    runtime.of(app).new_leadership()
except UnsupportedClientError as error:
    assert "_packet_queue" in str(error)
else:
    raise SystemExit("a client that the session can't use")
"""


@pytest.mark.slow
def test_the_mqtt_client_is_loaded_and_checked_when_a_process_becomes_a_candidate() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CANDIDATE], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
