"""The tools a newcomer meets first."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tools import check_docs
from tools.listener import describe
from tools.ports import first_free, is_free


def test_a_change_is_one_telling_line() -> None:
    change = {
        "type": "data_change",
        "entity": "work_orders",
        "operation": "create",
        "seq": 12,
        "data": {"id": "x", "woNumber": "WO-2026-0001", "reason": "Leaking seal"},
    }
    line = describe("vessel/sync/work_orders", json.dumps(change).encode())
    expected = "vessel/sync/work_orders  create work_orders  #12  WO-2026-0001 Leaking seal"
    assert line == expected
    assert describe("vessel/sync/work_orders", json.dumps(change).encode(), retained=True) == (
        f"{expected}  (retained)"
    )


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        (b"", "t  empty: the retained message is cleared"),
        (b"\xff\xfe", "t  2 bytes"),
        (b"[1]", "t  3 bytes"),
        (b'{"status": "offline"}', "t  offline"),
        (b'{"operation": "update", "data": {"name": "a\\u001b[31m\\nb"}}', "t  update  a·[31m·b"),
        (b'{"operation": "update", "data": 5}', "t  update"),
    ],
)
def test_whatever_comes_is_one_harmless_line(payload: bytes, line: str) -> None:
    assert describe("t", payload) == line


def test_a_taken_port_is_not_free() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not is_free(port)
        assert first_free([port]) is None


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(check_docs, "ROOT", tmp_path)
    (tmp_path / "Makefile").write_text("run: setup ## go\n")
    (tmp_path / "settings.md").write_text(" ".join(f"`{name}`" for name in check_docs.SETTINGS))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a](missing.md)", "README.md: the link missing.md leads nowhere"),
        ("[a](#nowhere)", "README.md: the link #nowhere names a heading that is not there"),
        ("`make rum`", "README.md: there is no `make rum`"),
        ("```\nmake rum\n```", "README.md: there is no `make rum`"),
        ("# Why `so`?\n[a](README.md#why-so) [b](https://example.org/x) `make run`", None),
        ("```\n[a](missing.md)\n```", None),
    ],
)
def test_the_docs_checks(repository: Path, text: str, problem: str | None) -> None:
    (repository / "README.md").write_text(text)
    assert list(check_docs.problems()) == ([problem] if problem else [])


def test_each_setting_must_be_documented(repository: Path) -> None:
    (repository / "settings.md").write_text("")
    assert "the setting MQTT_BROKER_URL is in no page" in list(check_docs.problems())
