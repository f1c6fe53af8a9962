"""Nodes on the mount's own host: their shards are read without them, where that is right."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

from tests.system.harness import Cluster, drop_caches, wait_until, write_durably

MIB = 1 << 20
FILE_MIB = 24
SAMPLES = 200
DATA_OFFSET = 10 * MIB
"""Beyond superblock and journal, rounded up."""


def filled(cluster: Cluster) -> tuple[Path, bytes]:
    """A file of whole stripes on a fresh mount that caches little."""
    cluster.mount("cache_mib=8")
    path, content = cluster.mountpoint / "file", os.urandom(FILE_MIB * MIB)
    write_durably(path, content)
    cluster.remount("cache_mib=8")
    return path, content


def reads(cluster: Cluster) -> dict[str, int]:
    """What reads have cost the mount."""
    report = json.loads(os.getxattr(cluster.mountpoint, "rainfs.mount"))
    counted: dict[str, int] = report["reads"]
    return counted


def read_at_random(path: Path, content: bytes, samples: int = SAMPLES) -> None:
    """Compare pages at random places, cold."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    drop_caches()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for _ in range(samples):
            offset = generator.randrange(len(content) - 4096)
            assert os.pread(descriptor, 4096, offset) == content[offset : offset + 4096]
    finally:
        os.close(descriptor)


def read_whole(path: Path, content: bytes) -> None:
    drop_caches()
    assert path.read_bytes() == content


def open_storage_files(cluster: Cluster) -> set[str]:
    """The storage files that the mount's process has open."""
    found = set()
    for path in Path(f"/proc/{cluster.mount_pid()}/fd").iterdir():
        target = os.readlink(path) if path.is_symlink() else ""
        if ".rainfs-store" in target:
            found.add(target)
    return found


def test_most_reads_take_no_node(cluster: Cluster) -> None:
    path, content = filled(cluster)
    read_whole(path, content)
    read_at_random(path, content)
    before = reads(cluster)
    read_at_random(path, content)
    read_whole(path, content)
    after = reads(cluster)
    assert after["direct"] - before["direct"] > (after["gets"] - before["gets"]) * 0.9 > 0


def test_a_dead_nodes_file_is_let_go_of(cluster: Cluster) -> None:
    path, content = filled(cluster)
    read_whole(path, content)
    assert len(open_storage_files(cluster)) == len(cluster.nodes)
    for node in cluster.nodes[:2]:
        node.kill()
    wait_until(
        lambda: len(open_storage_files(cluster)) == len(cluster.nodes) - 2,
        "the dead nodes' storage files are closed",
    )
    read_whole(path, content)
    read_at_random(path, content)
    cluster.start()
    cluster.wait_all_up()
    read_whole(path, content)
    assert len(open_storage_files(cluster)) == len(cluster.nodes)


def test_frozen_nodes_change_nothing(cluster: Cluster) -> None:
    path, content = filled(cluster)
    read_whole(path, content)
    for node in cluster.nodes[:2]:
        node.freeze()
    read_at_random(path, content)
    read_whole(path, content)
    for node in cluster.nodes[:2]:
        node.thaw()


def test_rotten_storage_files_are_read_around(cluster: Cluster) -> None:
    path, content = filled(cluster)
    read_whole(path, content)
    read_at_random(path, content)
    generator = random.Random(7)
    for node in cluster.nodes[:2]:
        storage = node.directory / ".rainfs-store"
        with storage.open("r+b", buffering=0) as file:
            end = storage.stat().st_size
            assert end > DATA_OFFSET
            for offset in range(DATA_OFFSET, end, 64 * 1024):
                file.seek(offset + generator.randrange(4096))
                file.write(b"rot")
            os.fsync(file.fileno())
    before = reads(cluster)
    read_at_random(path, content)
    read_whole(path, content)
    assert reads(cluster)["gathered"] > before["gathered"]


def test_a_wiped_nodes_old_file_is_not_read(cluster: Cluster) -> None:
    path, content = filled(cluster)
    read_whole(path, content)
    node = cluster.nodes[0]
    node.kill()
    shutil.rmtree(node.directory)
    node.start()
    node.wait_ready()
    read_whole(path, content)
    read_at_random(path, content)
    assert not [target for target in open_storage_files(cluster) if "(deleted)" in target]
