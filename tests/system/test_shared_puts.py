"""Nodes read shards in the mount's memory; they freeze, they die, and the mount dies meanwhile."""

from __future__ import annotations

import os
import random
from pathlib import Path

from tests.system.harness import Cluster, drop_caches, rainfs, wait_until

MIB = 1 << 20
ROUNDS = 1
LONG_ROUNDS = 20
FILE_MIB = 16


def maps_shared(pid: int) -> bool:
    return "memfd:rainfs-shards" in Path(f"/proc/{pid}/maps").read_text()


def write(path: Path, content: bytes) -> None:
    """Write a MiB at a time and sync: what this returns from is durable."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        for start in range(0, len(content), MIB):
            assert os.write(fd, content[start : start + MIB]) == len(content[start : start + MIB])
        os.fsync(fd)
    finally:
        os.close(fd)


def test_slots_of_nodes_that_fell_silent_carry_nothing_else(
    cluster: Cluster, long_form: bool
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    cluster.mount("cache_mib=8,timeout=10")
    kept: dict[Path, bytes] = {}

    def keep(name: str) -> None:
        path = cluster.mountpoint / name
        content = rng.randbytes(FILE_MIB * MIB)
        write(path, content)
        kept[path] = content

    keep("first")
    for node in cluster.nodes:
        assert node.process is not None
        assert maps_shared(node.process.pid)
    for number in range(LONG_ROUNDS if long_form else ROUNDS):
        frozen, killed = rng.sample(cluster.nodes, 2)
        frozen.freeze()
        keep(f"frozen-{number}")
        frozen.thaw()
        keep(f"thawed-{number}")
        killed.kill()
        keep(f"killed-{number}")
        killed.start()
        cluster.wait_all_up()
    (cluster.mountpoint / "unsynced").write_bytes(rng.randbytes(3 * FILE_MIB * MIB))
    cluster.kill_mount()
    cluster.mount("cache_mib=8,timeout=10")
    for path, content in kept.items():
        assert path.read_bytes() == content, path
    drop_caches()
    # What a node that was late has stored must not pass for a shard of what was committed.
    for pair in ((0, 1), (2, 3), (4, 5)) if long_form else ((0, 1),):
        for index in pair:
            cluster.nodes[index].kill()
        cluster.remount("cache_mib=8,timeout=10")
        for path, content in kept.items():
            assert path.read_bytes() == content, (pair, path)
        for index in pair:
            cluster.nodes[index].start()
        cluster.wait_all_up()
    cluster.umount()
    wait_until(lambda: not cluster.mounted, "the end of the mount")
    rainfs("fsck", cluster.meta_url)
