"""SIGKILL of the mount in the middle of writes: what was fsynced is there, nothing is garbage."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from hashlib import blake2b
from pathlib import Path

import pytest

from rainfs.mount.mountpoint import unmount
from tests.system.harness import Cluster, rainfs, sync_directory

KILLS = {False: 5, True: 50}
FILES = 8

_WRITER = """
import hashlib, os, random, sys
root, log, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
generator = random.Random(seed)
log = open(log, "a", buffering=1)

def content(name, offset, length):
    out = bytearray()
    page = offset // 64
    while len(out) < length + 64:
        out += hashlib.blake2b(f"{name}:{page}".encode()).digest()
        page += 1
    return bytes(out[offset % 64 : offset % 64 + length])

files = {}
while True:
    name = f"{seed}-{generator.randrange(int(sys.argv[4]))}"
    if name not in files:
        files[name] = [os.open(f"{root}/{name}", os.O_CREAT | os.O_WRONLY | os.O_EXCL), 0]
    fd, size = files[name]
    length = generator.choice([1, 100, 4096, 5000, 70_000, 300_000])
    os.pwrite(fd, content(name, size, length), size)
    files[name][1] = size + length
    if generator.random() < 0.3:
        os.fsync(fd)
        log.write(f"{name} {size + length}\\n")
    elif generator.random() < 0.02:
        os.close(files.pop(name)[0])
        os.rename(f"{root}/{name}", f"{root}/{name}.closed.{size + length}")
"""


def expected(name: str, length: int) -> bytes:
    """Return the first bytes of the file that the writer called `name`."""
    pages = (blake2b(f"{name}:{page}".encode()).digest() for page in range(length // 64 + 1))
    return b"".join(pages)[:length]


def check(root: Path, log: Path) -> None:
    """Every fsynced byte is there, and every byte that is there is one that was written."""
    promised: dict[str, int] = {}
    for line in log.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            name, size = line.split()
            promised[name] = max(promised.get(name, 0), int(size))
    found: dict[str, int] = {}
    for path in root.iterdir():
        name = path.name.split(".")[0]
        content = path.read_bytes()
        assert len(content) == path.stat().st_size
        assert content == expected(name, len(content)), f"garbage in {path.name}"
        found[name] = max(found.get(name, 0), len(content))
    for name, size in promised.items():
        assert found.get(name, -1) >= size, f"{name}: {found.get(name)} of {size} fsynced bytes"


def test_a_killed_mount_loses_nothing_that_was_synced(
    cluster: Cluster, tmp_path: Path, long_form: bool
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    log = tmp_path / "fsynced"
    log.touch()
    cluster.mount()
    data = cluster.mountpoint / "data"
    data.mkdir()
    sync_directory(cluster.mountpoint)
    for round_number in range(KILLS[long_form]):
        arguments = [str(data), str(log), str(round_number), str(FILES)]
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, *arguments], stderr=subprocess.DEVNULL
        )
        time.sleep(generator.uniform(0.3, 2.5))
        cluster.kill_mount()
        assert writer.wait(timeout=60) not in (0, -signal.SIGKILL)
        # The dead mount point is cleared by the mount itself.
        cluster.mount()
        check(data, log)
    cluster.umount()
    rainfs("gc", cluster.meta_url)
    assert cluster.unowned_shards() == []
    cluster.mount()
    check(data, log)


def test_gc_beside_a_mount_takes_nothing_that_is_needed(cluster: Cluster, tmp_path: Path) -> None:
    cluster.mount()
    data = cluster.mountpoint / "data"
    data.mkdir()
    log = tmp_path / "fsynced"
    log.touch()
    arguments = [str(data), str(log), "0", str(FILES)]
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, *arguments], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(4):
            rainfs("gc", cluster.mountpoint)
    finally:
        writer.terminate()
        writer.wait()
    cluster.remount()
    check(data, log)
    assert cluster.status()["stripes"]["degraded"] == 0


def test_an_unlinked_open_file_of_a_killed_mount_gives_its_space_back(cluster: Cluster) -> None:
    cluster.mount()
    path = cluster.mountpoint / "unlinked"
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.write(file, os.urandom(1 << 20))
    os.fsync(file)
    path.unlink()
    sync_directory(cluster.mountpoint)
    assert cluster.shards() > 0
    cluster.kill_mount()
    # Closing a file of a dead mount says so.
    with pytest.raises(OSError, match="not connected"):
        os.close(file)
    unmount(cluster.mountpoint, lazy=True)
    assert "1 unlinked files" in rainfs("gc", cluster.meta_url).stdout
    assert cluster.shards() == 0
