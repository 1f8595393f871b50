"""The notifier's socket is private; where it can't be made the relay runs without."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import closing
from pathlib import Path

import pytest

from arus.outbox.notifier import NotificationListener, Notifier
from tests.support.mosquitto import Mosquitto
from tests.support.vessel import Vessel
from tests.support.waiting import eventually


def test_only_its_user_can_enter_the_directory_of_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "arus.sqlite.notifier" / "socket"
    previous = os.umask(0)
    try:
        with closing(NotificationListener(path)) as listener:
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            notifier = Notifier(path)
            notifier.notify()
            assert listener.answer()
            notifier.close()
    finally:
        os.umask(previous)
    assert not path.exists()


def test_a_directory_that_others_may_enter_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "arus.sqlite.notifier" / "socket"
    path.parent.mkdir(mode=0o777)
    path.parent.chmod(0o777)
    with closing(NotificationListener(path)) as listener:
        assert listener.problem is None
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_socket_that_is_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "arus.sqlite.notifier" / "socket"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(str(path))
    with closing(NotificationListener(path)) as listener, closing(Notifier(path)) as notifier:
        notifier.notify()
        assert listener.answer()


def test_a_notifier_that_is_dropped_leaves_no_open_socket(tmp_path: Path) -> None:
    notifier = Notifier(tmp_path / "socket")
    notifier.notify()
    used = notifier._socket
    assert used is not None
    assert used.fileno() != -1
    del notifier
    assert used.fileno() == -1


@pytest.mark.parametrize("kind", ["file", "link", "link to a socket's directory"])
def test_a_directory_that_is_not_ours_is_not_used(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "arus.sqlite.notifier" / "socket"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "socket").write_text("precious")
    if kind == "file":
        path.parent.touch()
    else:
        path.parent.symlink_to(elsewhere)
    with closing(NotificationListener(path)) as listener, closing(Notifier(path)) as notifier:
        assert listener.problem
        notifier.notify()
        assert not listener.answer()
    assert (elsewhere / "socket").read_text() == "precious"


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_without_a_notifier_the_relay_delivers_and_says_so_once(
    database_url: str,
    log: object,
    mosquitto: Mosquitto,
    caplog: pytest.LogCaptureFixture,
) -> None:
    vessel = Vessel(database_url, MQTT_BROKER_URL=mosquitto.url)
    vessel.bell_path.parent.touch()  # a directory can't be made there
    try:
        with vessel:
            vessel.wait_connected()
            vessel.commit()
            vessel.wait_drained()
            eventually(lambda: vessel.status().depth == 0, message="it is delivered")
        said = [record for record in caplog.records if "no notifications" in record.getMessage()]
        assert len(said) == 1
    finally:
        vessel.bell_path.parent.unlink()
