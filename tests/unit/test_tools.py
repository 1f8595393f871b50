"""The tools a newcomer meets first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import audit, check_docs
from tools.listener import describe


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
        ("[a](#nowhere)", "README.md: the link #nowhere refers to a heading that does not exist"),
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
    assert "the setting MQTT_BROKER_URL is not documented" in list(check_docs.problems())


SOUND = {"name": "flask", "version": "3.1.0", "vulns": []}
FLAWED = {
    "name": "jinja2",
    "version": "3.0.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3.0.1", "3.1"]}],
}
SKIPPED = {"name": "werkzeug", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("packages", "code", "lines"),
    [
        ([SOUND], 0, ["audit: no vulnerability is known in 1 packages"]),
        ([SOUND, FLAWED], 1, ["jinja2 3.0.0: PYSEC-1 CVE-1; fixed in 3.0.1, 3.1"]),
        # pip-audit exits with 0 where the index has no database.
        ([SKIPPED, SKIPPED], 2, [audit.UNREACHABLE]),
        (
            [SOUND, SKIPPED],
            2,
            [
                "audit: no vulnerability is known in 1 packages",
                "audit: not compared: werkzeug",
            ],
        ),
    ],
)
def test_an_audit_of_dependencies_never_calls_unchecked_packages_sound(
    packages: list[dict[str, object]], code: int, lines: list[str]
) -> None:
    assert audit.verdict({"dependencies": packages}) == (lines, code)
