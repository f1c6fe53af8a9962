"""Ports for nodes of this host: different, free, out of the kernel's own way."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rainfs.cli import ports as module
from rainfs.cli.ports import EPHEMERAL_RANGE, FIRST_PORT, HOST, free_ports, port_is_free


def test_ports_are_different_and_free() -> None:
    ports = free_ports(8)
    assert len(set(ports)) == 8
    with socket.create_server((HOST, ports[0])):
        assert not port_is_free(ports[0])
    assert port_is_free(ports[1])


def test_no_outgoing_connection_is_given_a_port_of_ours() -> None:
    lowest = int(EPHEMERAL_RANGE.read_text().split()[0])
    assert all(FIRST_PORT <= port < max(lowest, FIRST_PORT + 1) for port in free_ports(200))


def test_taken_and_avoided_ports_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "EPHEMERAL_RANGE", tmp_path / "absent")
    monkeypatch.setattr(module, "FIRST_PORT", 12_000)
    monkeypatch.setattr(module, "DEFAULT_EPHEMERAL", 12_003)
    monkeypatch.setattr(module, "port_is_free", lambda port: port != 12_001)
    assert set(free_ports(2)) == {12_000, 12_002}
    assert free_ports(1, avoid={12_000}) == [12_002]
    with pytest.raises(OSError, match="fewer than 3 free ports"):
        free_ports(3)
