"""What the composition root refuses before it builds anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from rainfs.cli.compose import MountRequest, refuse_below_the_mount, vfs_options
from rainfs.errors import InputError
from rainfs.model import MIB, Node, NodeNumber, NodeUuid
from rainfs.mount.options import parse_options


def node(url: str) -> Node:
    return Node(NodeNumber(1), NodeUuid(bytes(16)), "n1", url, {})


def request(tmp_path: Path, *, database: str = "rain.db", log: str = "log") -> MountRequest:
    return MountRequest(
        url=f"sqlite://{tmp_path}/{database}",
        mountpoint=f"{tmp_path}/mnt",
        options=parse_options([]),
        log_path=f"{tmp_path}/{log}",
    )


def test_what_lies_beside_the_mount_is_fine(tmp_path: Path) -> None:
    nodes = [node(f"file://{tmp_path}/mnt2?capacity=1"), node("rain://127.0.0.1:1")]
    refuse_below_the_mount(request(tmp_path), nodes)


def test_what_the_mount_needs_may_not_lie_below_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="metadata"):
        refuse_below_the_mount(request(tmp_path, database="mnt/rain.db"), [])
    with pytest.raises(InputError, match="log"):
        refuse_below_the_mount(request(tmp_path, log="mnt/log"), [])
    with pytest.raises(InputError, match="storage of n1"):
        refuse_below_the_mount(request(tmp_path), [node(f"file://{tmp_path}/mnt/n?capacity=1")])


def test_mount_options_reach_the_vfs() -> None:
    options = vfs_options(parse_options(["ro,timeout=3", "dirty_mib=64,noatime"]))
    assert (options.read_only, options.noatime) == (True, True)
    assert (options.deadline_s, options.dirty_bytes) == (3.0, 64 * MIB)
