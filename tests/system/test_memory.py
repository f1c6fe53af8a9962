"""Memory of mount and nodes stays bounded whatever is asked of them: many bytes, many files."""

from __future__ import annotations

import os
from pathlib import Path

from tests.system.harness import Cluster, drop_caches

MIB = 1 << 20
WRITTEN_MIB = {False: 768, True: 8192}
FILES = {False: 2_000, True: 100_000}
FILES_PER_DIRECTORY = 20_000
SMALL_BYTES = 100
MOUNT_BOUND_MIB = 512
NODE_BOUND_MIB = 200


def peak_mib(pid: int) -> int:
    """Return the most memory that a process has had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise AssertionError(f"no VmHWM of {pid}")


def assert_bounded(mounted: Cluster) -> None:
    mount_mib = peak_mib(mounted.mount_pid())
    node_mib = [peak_mib(node.process.pid) for node in mounted.nodes if node.process]
    print(f"peak MiB: mount {mount_mib}, nodes {node_mib}")
    assert mount_mib < MOUNT_BOUND_MIB
    assert max(node_mib) < NODE_BOUND_MIB


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
    assert_bounded(mounted)


def test_memory_is_bounded_while_many_files_are_made_and_listed(
    mounted: Cluster, long_form: bool
) -> None:
    files = FILES[long_form]
    for number in range(files):
        directory = mounted.mountpoint / str(number // FILES_PER_DIRECTORY)
        if number % FILES_PER_DIRECTORY == 0:
            directory.mkdir()
        # Half of them are empty, so that inodes grow faster than bytes.
        (directory / str(number)).write_bytes(b"x" * (SMALL_BYTES * (number % 2)))
    # Once while the kernel holds them all, and once when it has let them go.
    for _ in range(2):
        found = 0
        for top in os.scandir(mounted.mountpoint):
            for entry in os.scandir(top.path):
                assert entry.stat().st_size == SMALL_BYTES * (int(entry.name) % 2)
                found += 1
        assert found == files
        drop_caches()
    assert_bounded(mounted)
