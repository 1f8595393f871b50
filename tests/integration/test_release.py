"""What `make release` finds missing before it builds anything."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import arus
from tools.release import ROOT, unready


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A committed tree that is ready for version 9.8.7."""
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n\n## 9.8.7 - 2026-11-22\n"
    )
    (tmp_path / "README.md").write_text("`dist/arus-9.8.7-py3-none-any.whl`\n")
    for command in (
        ("init", "--quiet"),
        ("add", "--all"),
        ("-c", "user.name=n", "-c", "user.email=e", "commit", "--quiet", "--message", "all"),
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_a_tree_that_names_the_version_everywhere_is_ready(tree: Path) -> None:
    assert list(unready(tree, "9.8.7")) == []


def test_each_file_that_names_another_version_is_said(tree: Path) -> None:
    assert list(unready(tree, "9.9.0")) == [
        "CHANGELOG.md has no section `## 9.9.0 - YYYY-MM-DD`",
        "README.md names the wheel of version 9.8.7",
    ]


def test_changes_that_belong_to_no_version_and_files_that_are_not_committed_are_said(
    tree: Path,
) -> None:
    text = (tree / "CHANGELOG.md").read_text()
    (tree / "CHANGELOG.md").write_text(text.replace("Unreleased\n", "Unreleased\n\n- New.\n"))
    assert list(unready(tree, "9.8.7")) == [
        "CHANGELOG.md has changes under Unreleased: they belong to this version or to none",
        "something is not committed",
    ]


def test_the_readme_names_the_wheel_of_this_version() -> None:
    named = re.findall(r"arus-([\d.]+)-py3", (ROOT / "README.md").read_text())
    assert set(named) == {arus.__version__}
