"""Nodes die, freeze and fill up under a real mount; files stay what they were."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import (
    Cluster,
    StorageNode,
    cluster_in,
    drop_caches,
    rainfs,
    run,
    wait_until,
    write_durably,
)

MIB = 1 << 20
DEADLINE_S = 6
SLACK_S = 5.0
"""What a loaded machine may add to a deadline before a test calls it broken."""


def make_tree(root: Path, *, files: int, large_mib: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    for number in range(files):
        directory = root / f"d{number % 20}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_bytes(generator.randbytes(generator.randrange(100_000)))
    with (root / "large").open("wb") as file:
        for _ in range(large_mib):
            file.write(generator.randbytes(MIB))


def assert_equal(one: Path, other: Path) -> None:
    assert run("diff", "-r", one, other) == ""


def test_every_pair_of_nodes_may_die(cluster: Cluster, tmp_path: Path, long_form: bool) -> None:
    source = tmp_path / "source"
    make_tree(source, files=2_000 if long_form else 300, large_mib=1024 if long_form else 24)
    cluster.mount("cache_mib=8")
    copy = cluster.mountpoint / "copy"
    run("cp", "-a", source, copy)
    cluster.remount("cache_mib=8")
    written: dict[Path, bytes] = {}
    for pair in itertools.combinations(cluster.nodes, 2):
        for node in pair:
            node.kill()
        drop_caches()
        assert_equal(source, copy)
        name = "-".join(node.name for node in pair)
        for size in (100, 300_000):
            path = cluster.mountpoint / f"{name}-{size}"
            written[path] = os.urandom(size)
            write_durably(path, written[path])
        cluster.start()
        cluster.wait_all_up()
    drop_caches()
    assert {path: path.read_bytes() for path in written} == written
    cluster.remount()
    assert {path: path.read_bytes() for path in written} == written
    assert_equal(source, copy)
    assert cluster.status()["stripes"]["lost"] == 0


def test_reads_fail_in_time_when_too_few_nodes_live_and_recover(cluster: Cluster) -> None:
    cluster.mount("cache_mib=8", f"timeout={DEADLINE_S}")
    path = cluster.mountpoint / "file"
    content = os.urandom(8 * MIB)
    path.write_bytes(content)
    cluster.remount("cache_mib=8", f"timeout={DEADLINE_S}")
    for node in cluster.nodes[:3]:
        node.kill()
    drop_caches()
    began = time.monotonic()
    with pytest.raises(OSError, match="Input/output") as raised:
        path.read_bytes()
    assert raised.value.errno == errno.EIO
    assert time.monotonic() - began < DEADLINE_S + SLACK_S
    cluster.start()

    def reads() -> bool:
        try:
            return path.read_bytes() == content
        except OSError:
            return False

    wait_until(reads, "the file reads again without a remount")


def test_writes_fail_in_time_when_no_node_lives_and_recover(cluster: Cluster) -> None:
    cluster.mount(f"timeout={DEADLINE_S}")
    for node in cluster.nodes:
        node.kill()
    content = os.urandom(MIB)
    with (cluster.mountpoint / "file").open("wb") as file:
        file.write(content)
        file.flush()
        began = time.monotonic()
        with pytest.raises(OSError, match="Input/output"):
            os.fsync(file.fileno())
        assert time.monotonic() - began < DEADLINE_S + SLACK_S
        cluster.start()

        def syncs() -> bool:
            try:
                os.fsync(file.fileno())
            except OSError:
                return False
            return True

        wait_until(syncs, "fsync succeeds again without a remount")
    cluster.remount()
    assert (cluster.mountpoint / "file").read_bytes() == content


def test_names_and_attributes_answer_while_no_node_does(mounted: Cluster) -> None:
    (mounted.mountpoint / "dir").mkdir()
    (mounted.mountpoint / "dir" / "file").write_bytes(b"x" * 1000)
    for node in mounted.nodes:
        node.freeze()
    drop_caches()
    began = time.monotonic()
    assert os.listdir(mounted.mountpoint / "dir") == ["file"]
    assert (mounted.mountpoint / "dir" / "file").stat().st_size == 1000
    os.statvfs(mounted.mountpoint)
    assert time.monotonic() - began < SLACK_S
    for node in mounted.nodes:
        node.thaw()


def test_reads_go_round_two_frozen_nodes(cluster: Cluster) -> None:
    cluster.mount("cache_mib=8")
    path = cluster.mountpoint / "file"
    content = os.urandom(16 * MIB)
    path.write_bytes(content)
    cluster.remount("cache_mib=8")
    for node in cluster.nodes[1:3]:
        node.freeze()
    drop_caches()
    began = time.monotonic()
    assert path.read_bytes() == content
    assert time.monotonic() - began < SLACK_S
    new = os.urandom(MIB)
    write_durably(cluster.mountpoint / "new", new)
    for node in cluster.nodes[1:3]:
        node.thaw()
    cluster.wait_all_up()
    cluster.remount()
    assert (cluster.mountpoint / "new").read_bytes() == new


def test_a_mount_with_missing_nodes_says_what_is_exposed(mounted: Cluster) -> None:
    path = mounted.mountpoint / "file"
    content = os.urandom(5 * MIB)
    path.write_bytes(content)
    mounted.umount()
    for node in mounted.nodes[4:]:
        node.kill()
    remarks = mounted.mount()
    assert "4 of 6 nodes answer" in remarks
    assert "node-5, node-6" in remarks
    assert "degraded" in remarks
    assert path.read_bytes() == content
    stripes = mounted.status()["stripes"]
    assert stripes["degraded"] > 0
    assert stripes["lost"] == 0


def test_a_mount_without_any_node_still_mounts(mounted: Cluster) -> None:
    (mounted.mountpoint / "file").write_bytes(b"content")
    mounted.umount()
    for node in mounted.nodes:
        node.kill()
    remarks = mounted.mount(f"timeout={DEADLINE_S}")
    assert "0 of 6 nodes answer" in remarks
    assert os.listdir(mounted.mountpoint) == ["file"]
    mounted.start()

    def reads() -> bool:
        try:
            return (mounted.mountpoint / "file").read_bytes() == b"content"
        except OSError:
            return False

    wait_until(reads, "the file reads once the nodes are there")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_in(tmp_path, capacity="64M") as made:
        made.mount()
        yield made


def fill(file: io.FileIO, block: bytes, *, limit: int) -> tuple[int, int | None]:
    """Write `block` until an error; return the bytes written and the error number."""
    written = 0
    try:
        while written < limit:
            written += file.write(block)
    except OSError as error:
        return written, error.errno
    return written, None


def test_a_full_array_says_so_at_write_and_recovers_after_a_delete(small: Cluster) -> None:
    block = os.urandom(MIB)
    usable = small.status()["capacity"]["usable_bytes"]
    path = small.mountpoint / "fill"
    with path.open("wb", buffering=0) as file:
        written, reason = fill(file, block, limit=2 * usable)
        assert reason == errno.ENOSPC
        os.fsync(file.fileno())
    assert written > usable // 2
    assert path.stat().st_size == written
    small.remount()
    with path.open("rb") as file:
        while piece := file.read(MIB):
            assert piece == block[: len(piece)]
    path.unlink()

    def fits() -> bool:
        try:
            (small.mountpoint / "new").write_bytes(block * 8)
        except OSError:
            return False
        return True

    wait_until(fits, "deleted space can be written again", timeout_s=60)
    small.remount()
    assert (small.mountpoint / "new").read_bytes() == block * 8


def test_an_added_node_is_used_without_a_remount(mounted: Cluster) -> None:
    extra = StorageNode(mounted.root / "node-7", "node-7", "8G")
    mounted.nodes.append(extra)
    mounted.start()
    assert "node-7" in rainfs("node", "add", mounted.mountpoint, extra.url).stdout
    listed = json.loads(rainfs("node", "list", mounted.mountpoint, "--json").stdout)
    assert [node["name"] for node in listed] == [f"node-{n}" for n in range(1, 8)]

    def used() -> bool:
        write_durably(mounted.mountpoint / f"f{time.monotonic_ns()}", os.urandom(MIB))
        shards: int = mounted.status()["nodes"][6]["shards"]
        return shards > 0

    wait_until(used, "the new node holds shards", timeout_s=60)
