"""Files of the repository that repeat what is defined elsewhere: they must agree with it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from arus.settings import SETTINGS
from extensions.config import APP_SETTINGS

ROOT = Path(__file__).resolve().parents[2]
#: Settings of gunicorn.conf.py, with their defaults.
SERVER = {"PORT": "8000", "WEB_CONCURRENCY": "2", "WEB_THREADS": "4"}
#: Their default is that of the machine.
OF_THE_MACHINE = {"TRUSTED_HOSTS", "SHIP_TIMEZONE"}
EXAMPLE = (ROOT / ".env.example").read_text()


def test_the_example_of_settings_has_each_of_them_with_its_default() -> None:
    known = {**SETTINGS, **APP_SETTINGS}
    defaults = {name: setting.default or "" for name, setting in known.items()} | SERVER
    defaults |= dict.fromkeys(OF_THE_MACHINE, "")
    assert dict(re.findall(r"^#?([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE)) == defaults
    # what has no usable default is not commented out
    assert re.findall(r"^([A-Z_]+)=", EXAMPLE, re.MULTILINE) == ["SECRET_KEY"]


def test_the_servers_settings_have_these_defaults() -> None:
    text = (ROOT / "gunicorn.conf.py").read_text()
    assert dict(re.findall(r'_read\("(\w+)", "(\w+)"', text)) == SERVER


def test_each_setting_of_the_example_is_explained() -> None:
    lines = EXAMPLE.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"#?[A-Z_]+=", line):
            assert lines[number - 1].startswith("# "), line


def test_the_hooks_before_a_commit_are_the_checks_of_make_lint() -> None:
    config: dict[str, Any] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [shlex.split(hook["entry"]) for repo in config["repos"] for hook in repo["hooks"]]
    (recipe,) = re.findall(
        r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    made = [shlex.split(line.strip().removeprefix("@")) for line in recipe.splitlines()]
    python = ".venv/bin/python"
    made = [[python if word == "$(PY)" else word for word in command] for command in made]
    # the hook formats what make lint only checks, and both get their files from elsewhere
    without = {".", "--check"}
    assert hooks == [[word for word in command if word not in without] for command in made]


@pytest.mark.parametrize("name", ["fault", "idea"])
def test_the_forms_for_issues_ask_for_something(name: str) -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert form.keys() == {"name", "description", "labels", "body"}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert any(field.get("validations", {}).get("required") for field in fields)
