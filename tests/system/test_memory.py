"""The mount's memory stays bounded while far more than it is written and read."""

from __future__ import annotations

import os
from pathlib import Path

from tests.system.harness import Cluster, drop_caches

MIB = 1 << 20
WRITTEN_MIB = {False: 768, True: 8192}
MOUNT_BOUND_MIB = 1024
NODE_BOUND_MIB = 200


def peak_mib(pid: int) -> int:
    """Return the most memory that a process has had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise AssertionError(f"no VmHWM of {pid}")


def test_memory_is_bounded_while_much_is_written_and_read(
    mounted: Cluster, long_form: bool
) -> None:
    block = os.urandom(MIB)
    path = mounted.mountpoint / "large"
    with path.open("wb", buffering=0) as file:
        for number in range(WRITTEN_MIB[long_form]):
            file.write(number.to_bytes(8, "big") + block[8:])
        os.fsync(file.fileno())
    drop_caches()
    with path.open("rb", buffering=0) as file:
        for number in range(WRITTEN_MIB[long_form]):
            assert file.read(MIB) == number.to_bytes(8, "big") + block[8:]
    mount_mib = peak_mib(mounted.mount_pid())
    node_mib = [peak_mib(node.process.pid) for node in mounted.nodes if node.process]
    print(f"peak MiB: mount {mount_mib}, nodes {node_mib}")
    assert mount_mib < MOUNT_BOUND_MIB
    assert max(node_mib) < NODE_BOUND_MIB
