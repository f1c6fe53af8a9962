"""Space comes back, files stay as they are: compaction and garbage collection on real nodes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.system.harness import (
    Cluster,
    cluster_in,
    rainfs,
    wait_until,
    write_durably,
)

MINUTE_S = 60.0
SIZE = 4 << 20
PAGE = 4096
ROUNDS = 5
PAGES_PER_ROUND = 300
SMALL = 60


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_in(tmp_path) as made:
        yield made


def made_and_overwritten(path: Path, random: Random) -> bytes:
    """Write a file in one go, then at random: its stripes end up mostly dead, one by one."""
    content = bytearray(random.randbytes(SIZE))
    write_durably(path, bytes(content))
    with path.open("r+b", buffering=0) as file:
        for _ in range(ROUNDS):
            for _ in range(PAGES_PER_ROUND):
                at = random.randrange(SIZE // PAGE) * PAGE
                content[at : at + PAGE] = data = random.randbytes(PAGE)
                os.pwrite(file.fileno(), data, at)
            os.fsync(file.fileno())
    return bytes(content)


def read_uncached(path: Path) -> bytes:
    """Read a file past the kernel's cache of it."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


def stored_bytes(cluster: Cluster) -> int:
    return sum(node["used_bytes"] for node in cluster.status()["nodes"])


def test_space_of_deleted_files_is_back_on_the_nodes_within_a_minute(cluster: Cluster) -> None:
    cluster.mount()
    keep = cluster.mountpoint / "keep"
    write_durably(keep, b"k" * 100_000)
    before = cluster.shards()
    random = Random(1)
    for number in range(5):
        (cluster.mountpoint / f"large-{number}").write_bytes(random.randbytes(1 << 20))
    directory = cluster.mountpoint / "many"
    directory.mkdir()
    for number in range(100):
        (directory / f"{number}").write_bytes(random.randbytes(5_000))
    os.sync()
    wait_until(lambda: cluster.shards() > before, "the files are on the nodes")
    for path in [*cluster.mountpoint.glob("large-*"), *directory.iterdir()]:
        path.unlink()
    wait_until(lambda: cluster.shards() <= before, "their space is back", MINUTE_S)
    assert keep.read_bytes() == b"k" * 100_000


def test_gc_beside_a_mount_compacts_what_the_mount_uses(cluster: Cluster) -> None:
    cluster.mount("compact_mbps=0")
    random = Random(2)
    path = cluster.mountpoint / "file"
    content = made_and_overwritten(path, random)
    small = {cluster.mountpoint / f"small-{n}": random.randbytes(3_000) for n in range(SMALL)}
    for name, data in small.items():
        write_durably(name, data)
    before = cluster.status()["stripes"]["total"]
    wrong: list[str] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            if read_uncached(path) != content:
                wrong.append("the large file changed under a reader")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        said = rainfs("gc", cluster.mountpoint).stdout
    finally:
        stop.set()
        reader.join()
    assert "compacted" in said
    assert not wrong
    after = cluster.status()["stripes"]
    assert after["total"] < before - SMALL * 9 // 10
    assert after["degraded"] == after["lost"] == 0
    assert cluster.unowned_shards() == []
    cluster.remount()
    assert read_uncached(path) == content
    for name, data in small.items():
        assert name.read_bytes() == data
    assert "compacted 0 B into 0 stripes" in rainfs("gc", cluster.mountpoint).stdout


def test_gc_without_a_mount_compacts_and_leaves_the_volume_mountable(cluster: Cluster) -> None:
    cluster.mount("compact_mbps=0")
    random = Random(3)
    path = cluster.mountpoint / "file"
    content = made_and_overwritten(path, random)
    cluster.umount()
    before = stored_bytes(cluster)
    rainfs("gc", cluster.meta_url)
    assert stored_bytes(cluster) < before * 3 // 4
    cluster.mount()
    assert path.read_bytes() == content


def test_the_background_compacts_by_itself(cluster: Cluster) -> None:
    cluster.mount()
    random = Random(4)
    path = cluster.mountpoint / "file"
    content = made_and_overwritten(path, random)
    # Twice what the live bytes take, six shards of four: less than half of a stripe is garbage.
    most = 2 * SIZE * 6 // 4
    wait_until(lambda: stored_bytes(cluster) < most, "garbage is gone", 4 * MINUTE_S)
    assert read_uncached(path) == content


def test_gc_sweeps_stores_that_the_mount_has_open(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, nodes=0)
    urls = [f"file://{tmp_path}/store-{number}?capacity={1 << 30}" for number in range(4)]
    rainfs("format", cluster.meta_url, "--name", "test", "--data", 2, "--parity", 1, *urls)
    try:
        cluster.mount("compact_mbps=0")
        path = cluster.mountpoint / "file"
        random = Random(5)
        content = made_and_overwritten(path, random)
        done = rainfs("gc", cluster.mountpoint)
        assert "compacted" in done.stdout
        assert "looked at 0 shards" not in done.stdout
        assert read_uncached(path) == content
    finally:
        cluster.close()
