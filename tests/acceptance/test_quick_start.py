"""The README's quick start works word for word in an empty directory, with the lowest versions that are declared."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

import arus
from tests.support.gunicorn_app import ROOT, clean_environment
from tests.support.mosquitto import Mosquitto
from tests.support.namespaces import unshare
from tests.support.pages import README, blocks
from tests.support.waiting import PATIENCE
from tools import release

HEADING = "Use it in your own application"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

#: Sets IFF_UP and IFF_RUNNING of the interface lo (netdevice(7)); iproute2 may not be installed.
LOOPBACK_UP = (
    "import fcntl, socket, struct;"
    ' fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh22x", b"lo", 0x41))'
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    return build(tmp_path_factory)


def build(tmp_path_factory: pytest.TempPathFactory, project_url: str = "") -> Path:
    """Build the sources of this tree, and from these the wheel."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("README.md", "LICENSE", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "arus", source / "arus", ignore=shutil.ignore_patterns("__pycache__"))
    _sources, built = release.build(
        source, dist, {"PROJECT_URL": project_url}
    )  # as `make release` does
    return built


def run(argv: list[str], directory: Path | None = None, **environment: str) -> str:
    """What a program prints; fails with its output when it fails."""
    done = subprocess.run(
        argv,
        cwd=directory,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lowest() -> str:
    """The declared lower bounds, as pip's constraints."""
    return "".join(f"{line.replace('>=', '==')}\n" for line in PROJECT["dependencies"])


class Machine:
    """A machine of one's own: no other process, no other network. Ends with all that runs in it, after a minute at most."""

    def __init__(self, directory: Path) -> None:
        namespaces = unshare("--net", "--pid", "--fork", "--kill-child")
        self._process = subprocess.Popen(
            ["timeout", str(60 * PATIENCE), *namespaces, "bash", "-e"],
            cwd=directory,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        self.do(f"{sys.executable} -c '{LOOPBACK_UP}'")

    def do(self, commands: str) -> None:
        """Type commands."""
        assert self._process.stdin is not None
        self._process.stdin.write(commands + "\n")
        self._process.stdin.flush()

    def lines(self) -> Iterator[str]:
        """What is printed."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            yield line

    def wait_for(self, beginning: str) -> str:
        """The first line that begins so."""
        seen = []
        for line in self.lines():
            seen.append(line)
            if line.startswith(beginning):
                return line
        raise AssertionError(f"no line {beginning!r} in {''.join(seen)}")

    def end(self) -> None:
        """Switch it off."""
        self._process.kill()
        self._process.communicate(timeout=20 * PATIENCE)


def test_the_quick_start_works_word_for_word(wheel: Path, tmp_path: Path) -> None:
    install, use = (block.code for block in blocks(README, HEADING, "sh"))
    code = blocks(README, HEADING, "python")[0].code
    expected = next(block.code for block in blocks(README, HEADING) if block.language == "")
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(lowest())
    directory = tmp_path / "empty"
    directory.mkdir()
    shutil.copy(wheel, directory)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run(["bash", "-e", "-c", install], directory, PATH=path, PIP_CONSTRAINT=str(constraints))
    (directory / "plant.py").write_text(code)
    machine = Machine(directory)
    try:
        machine.do(use)
        line = machine.wait_for("vessel/sync/valves ")
        machine.do(".venv/bin/flask --app plant sync status")
        assert "of 10000 waiting" in machine.wait_for("queue ")
        # The main job: what is written while the broker is away arrives when it is back.
        machine.do("kill %1; wait %1 || true")
        machine.do("curl --silent -X POST http://127.0.0.1:5000/valves/v-2/open")
        machine.do("mosquitto &")  # the subscriber connects again by itself, and so does the relay
        assert '"id":"v-2"' in machine.wait_for("vessel/sync/valves ")
    finally:
        machine.end()
    assert line.startswith(expected.partition(", ...")[0])


def test_the_package_says_what_it_is(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        assert "arus/py.typed" in archive.namelist()
    metadata = metadata_of(wheel)
    assert metadata["Version"] == arus.__version__
    assert "Framework :: Flask" in metadata.get_all("Classifier", [])
    assert metadata.get_all("Project-URL") is None
    assert "## Use it in your own application" in metadata.get_payload()
    assert [link for link in links_of(metadata) if not link.startswith("https://")] == []


def test_a_package_with_an_address_links_to_its_pages(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    wheel = build(tmp_path_factory, "https://code.example/arus/")
    metadata = metadata_of(wheel)
    urls = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL", []))
    pages = f"https://code.example/arus/blob/v{arus.__version__}/"
    assert urls["Source"] == "https://code.example/arus"
    assert urls["Changelog"] == f"{pages}CHANGELOG.md"
    published = [link for link in links_of(metadata) if link.startswith(pages)]
    assert published
    for link in published:
        assert (ROOT / link.removeprefix(pages).partition("#")[0]).exists()
    assert [link for link in links_of(metadata) if not link.startswith("https://")] == []


def metadata_of(wheel: Path) -> Message:
    """What a wheel says of itself."""
    with ZipFile(wheel) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith("/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def links_of(metadata: Message) -> list[str]:
    """The links of a description."""
    return re.findall(r"\]\(([^)]*)\)", str(metadata.get_payload()))


def test_a_follower_runs_beside_make_run_as_the_readme_says(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    (block,) = blocks(README, "Follow a ship, and prove it", "sh")
    script = block.code.replace(str(Path("/tmp")), str(tmp_path))  # noqa: S108  # what the README says
    process = subprocess.Popen(
        ["bash", "-e", "-c", f"{script.rstrip()} & wait -n"],
        cwd=ROOT,
        env=clean_environment(MQTT_BROKER_URL=mosquitto.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert any("shore is connected to" in line for line in process.stdout)
    finally:
        os.killpg(process.pid, 15)
        process.communicate(timeout=20)
