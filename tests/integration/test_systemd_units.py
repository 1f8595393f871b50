"""deploy/systemd, judged by systemd's own `systemd-analyze`: valid, and hardened."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from arus.settings import SETTINGS
from extensions.config import APP_SETTINGS
from tests.support.broker import DEPLOY, find_program

#: systemd is installed for `make test` alone.
pytestmark = pytest.mark.slow

FILES = DEPLOY / "systemd"
UNITS = sorted(path.name for path in FILES.glob("*.service"))
TIMERS = sorted(path.name for path in FILES.glob("*.timer"))
#: What README.md states.
EXPOSURE = 1.2


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The root of a machine that has the units, what they start, and systemd's own targets."""
    units = tmp_path / "etc" / "systemd" / "system"
    shutil.copytree(FILES, units)
    targets = Path("/lib/systemd/system")
    (tmp_path / "lib" / "systemd" / "system").mkdir(parents=True)
    for target in targets.glob("*.target"):
        if not target.is_symlink():
            shutil.copy(target, tmp_path / "lib" / "systemd" / "system")
    programs = {
        word
        for unit in UNITS
        for word in re.findall(r"^Exec\w+=(\S+)", (FILES / unit).read_text(), re.MULTILINE)
    }
    for program in programs:
        place = tmp_path / program.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch(0o755)
    return tmp_path


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [find_program("systemd-analyze"), *words], capture_output=True, text=True, timeout=60
    )


def instance(unit: str) -> str:
    return unit.replace("@.", "@1.")


@pytest.mark.parametrize("unit", [*UNITS, *TIMERS])
def test_systemd_accepts_the_unit(machine: Path, unit: str) -> None:
    done = analyze("verify", f"--root={machine}", instance(unit))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_is_as_hardened_as_the_readme_says(machine: Path, unit: str) -> None:
    done = analyze(
        "security",
        "--offline=yes",
        f"--root={machine}",
        f"--threshold={EXPOSURE * 10:.0f}",
        instance(unit),
    )
    assert done.returncode == 0, done.stdout
    assert f"{EXPOSURE} OK" in (FILES / "README.md").read_text()


@pytest.mark.parametrize("name", ["vessel.env", "shore.env"])
def test_the_settings_files_name_settings_that_exist(name: str) -> None:
    used = set(re.findall(r"^(\w+)=", (FILES / name).read_text(), re.MULTILINE))
    of_the_units = {"FOLLOWER", "PARTITIONS"}
    assert used - of_the_units <= {*SETTINGS, *APP_SETTINGS}
