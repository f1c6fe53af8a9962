"""A hundred writers at once: what the mount holds for them stays within its limit."""

from __future__ import annotations

import json
import os
import threading
from hashlib import blake2b
from pathlib import Path

from tests.system.harness import cluster_in

MIB = 1 << 20
WRITERS = 100
EACH_BYTES = {False: 2 * MIB, True: 32 * MIB}
WRITE_BYTES = (4096, 70_000, 256 * 1024, MIB)
"""Sizes of a write; each writer has its own."""

DIRTY_MIB = 16
MOUNT_BOUND_MIB = 512
"""What OPTIONS.md promises with far larger limits than those of this test."""


def block_of(writer: int, size: int) -> bytes:
    """Return what this writer writes again and again."""
    return (blake2b(str(writer).encode()).digest() * (size // 64 + 1))[:size]


def peak_mib(pid: int) -> int:
    """Return the most memory that a process has had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise AssertionError(f"no VmHWM of {pid}")


def test_a_hundred_writers_keep_within_the_dirty_limit(tmp_path: Path, long_form: bool) -> None:
    total = EACH_BYTES[long_form]
    with cluster_in(tmp_path, nodes=3, code=("--data", 2, "--parity", 1)) as cluster:
        cluster.mount(f"dirty_mib={DIRTY_MIB}", "cache_mib=8", "timeout=300")
        together = threading.Barrier(WRITERS)
        failures: list[str] = []

        def write(number: int) -> None:
            size = WRITE_BYTES[number % len(WRITE_BYTES)]
            block = block_of(number, size)
            try:
                with (cluster.mountpoint / f"f{number}").open("wb", buffering=0) as file:
                    together.wait()
                    for at in range(0, total, size):
                        file.write(block[: total - at])
                    if number % 3 == 0:
                        os.fsync(file.fileno())
            except OSError as error:
                failures.append(f"writer {number}: {error}")

        threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        report = json.loads(os.getxattr(cluster.mountpoint, "rainfs.mount"))
        memory_mib = peak_mib(cluster.mount_pid())
        print(f"dirty peak {report['dirty_peak_bytes'] / MIB:.1f} MiB, memory {memory_mib} MiB")
        assert report["dirty_limit_bytes"] == DIRTY_MIB * MIB
        # A write is admitted before it is known what its bookkeeping costs.
        assert MIB < report["dirty_peak_bytes"] <= DIRTY_MIB * MIB + MIB
        assert memory_mib < MOUNT_BOUND_MIB
        cluster.remount()
        for number in range(WRITERS):
            block = block_of(number, WRITE_BYTES[number % len(WRITE_BYTES)])
            want = (block * (total // len(block) + 1))[:total]
            assert (cluster.mountpoint / f"f{number}").read_bytes() == want, f"writer {number}"
