"""Ports: which are free, and that no two processes are given the same one."""

from __future__ import annotations

import socket

from tests.support.waiting import PortBlock, free_port
from tools.ports import first_free, is_free


def test_a_taken_port_is_not_free() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not is_free(port)
        assert first_free([port]) is None


def test_a_port_is_not_handed_out_again_while_others_are_left() -> None:
    ports = [free_port() for _ in range(PortBlock.SIZE // 2)]
    assert len(set(ports)) == len(ports)
    assert all(map(is_free, ports))


def test_two_workers_have_no_port_in_common() -> None:
    blocks = [PortBlock() for _ in range(3)]
    ports = [port for block in blocks for port in block.ports]
    for block in blocks:
        block.close()
    assert len(set(ports)) == len(ports)
    assert free_port() not in ports
