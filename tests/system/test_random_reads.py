"""Random reads on a real mount, while the kernel's page cache is filled behind everybody's back."""

from __future__ import annotations

import json
import mmap
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rainfs.mount.filler import ORDER
from rainfs.mount.mountpoint import unmount
from tests.system.harness import Cluster, drop_caches, wait_until

PAGE = 4096
MIB = 1 << 20
REGION_PAGES = MIB // PAGE
STAMP_BYTES = 16
SHORT_S, LONG_S = 6.0, 300.0


def fillers(mountpoint: Path) -> list[int]:
    """Return the processes that fill the page cache for a mount."""
    wanted = os.fsencode(mountpoint)
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                arguments = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"rainfs.mount.filler" in arguments and wanted in arguments:
                found.append(int(process.name))
    return found


def test_random_reads_are_right_and_come_from_memory_in_the_end(mounted: Cluster) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    path = mounted.mountpoint / "file"
    data = chance.randbytes(16 * MIB + 1234)
    path.write_bytes(data)
    drop_caches()
    atime_ns = path.stat().st_atime_ns
    with path.open("rb", buffering=0) as file:
        for _ in range(3_000):
            offset = chance.randrange(len(data))
            assert os.pread(file.fileno(), PAGE, offset) == data[offset : offset + PAGE]
    said = json.loads(os.getxattr(mounted.mountpoint, "rainfs.mount"))
    assert said["regions"] > 8
    assert said["reads"]["gets"] < 1_500
    assert fillers(mounted.mountpoint)
    assert path.stat().st_atime_ns > atime_ns
    mounted.remount("noatime")
    assert path.read_bytes() == data


def read_until_filled(mounted: Cluster, regions: int) -> None:
    """Read a new file at random until so many regions of it were fetched, and close it."""
    path = mounted.mountpoint / "file"
    path.write_bytes(os.urandom(8 * MIB))
    drop_caches()
    with path.open("rb", buffering=0) as file:
        deadline = time.monotonic() + 30
        while json.loads(os.getxattr(mounted.mountpoint, "rainfs.mount"))["regions"] < regions:
            for _ in range(10):
                os.pread(file.fileno(), PAGE, random.randrange(8 * MIB))
            assert time.monotonic() < deadline
    assert fillers(mounted.mountpoint)


def test_whoever_has_closed_a_file_may_unmount_at_once(mounted: Cluster) -> None:
    for regions in (1, 2, 4):
        read_until_filled(mounted, regions)
        unmount(mounted.mountpoint)
        wait_until(lambda: mounted.session() is None, "the mount has ended")
        wait_until(lambda: not fillers(mounted.mountpoint), "the filler has ended")
        mounted.mount()


def test_whoever_fills_the_cache_goes_with_a_mount_that_is_killed(mounted: Cluster) -> None:
    read_until_filled(mounted, 3)
    mounted.kill_mount()
    wait_until(lambda: not fillers(mounted.mountpoint), "the filler has ended")


class Shadow:
    """What one file's pages may hold: one writer, any number of readers, no lock between them.

    A page's values are numbered; a reader that begins after value i was written and ends before
    value j + 1 was begun sees one of i to j, at each of its bytes.
    """

    def __init__(self, path: Path, pages: int) -> None:
        self.path = path
        self.pages = pages
        self.values: list[list[bytes]] = [[bytes(STAMP_BYTES)] for _ in range(pages)]
        self.begun = [0] * pages
        self.done = [0] * pages

    def begin(self, page: int, stamp: bytes) -> None:
        self.values[page].append(stamp)
        self.begun[page] += 1

    def end(self, page: int) -> None:
        self.done[page] = self.begun[page]

    def check(self, page: int, earliest: int, content: bytes) -> None:
        """`content` was read after value `earliest` had been written."""
        content = content.ljust(PAGE, b"\0")
        allowed = self.values[page][earliest : self.begun[page] + 1]
        for at in (0, PAGE - STAMP_BYTES):
            seen = content[at : at + STAMP_BYTES]
            assert seen in allowed, (
                f"{self.path.name} page {page} byte {at}: {seen!r}, not one of {allowed!r}"
            )


class Storm:
    """Threads that read, write, cut, open and fill, until told to stop or one of them fails."""

    def __init__(self, mountpoint: Path, seed: int, shadows: list[Shadow]) -> None:
        self.mountpoint = mountpoint
        self.seed = seed
        self.shadows = shadows
        self.over = threading.Event()
        self.failures: list[BaseException] = []
        self.reads = 0
        self.writes = 0

    def spawn(self, work: Any, *args: Any) -> threading.Thread:
        def run() -> None:
            try:
                while not self.over.is_set():
                    work(*args)
            except BaseException as error:
                self.failures.append(error)
                self.over.set()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def write(self, shadow: Shadow, chance: random.Random) -> None:
        """Open, change some pages, close: so that there are moments without a writer."""
        direct = os.O_DIRECT if chance.random() < 0.2 else 0
        descriptor = os.open(shadow.path, os.O_RDWR | direct)
        buffer = memoryview(mmap.mmap(-1, PAGE))
        try:
            for _ in range(chance.randrange(1, 8)):
                if not direct and chance.random() < 0.1:
                    self._cut(shadow, descriptor, chance)
                    continue
                page = chance.randrange(shadow.pages)
                stamp = b"%016x" % chance.randrange(1, 1 << 62)
                buffer[:] = stamp * (PAGE // STAMP_BYTES)
                shadow.begin(page, stamp)
                assert os.pwrite(descriptor, buffer, page * PAGE) == PAGE
                shadow.end(page)
                self.writes += 1
        finally:
            os.close(descriptor)

    def _cut(self, shadow: Shadow, descriptor: int, chance: random.Random) -> None:
        """Cut the tail off and put holes in its place."""
        first = shadow.pages - chance.randrange(1, REGION_PAGES)
        for page in range(first, shadow.pages):
            shadow.begin(page, bytes(STAMP_BYTES))
        os.ftruncate(descriptor, first * PAGE)
        os.ftruncate(descriptor, shadow.pages * PAGE)
        for page in range(first, shadow.pages):
            shadow.end(page)

    def read(self, chance: random.Random) -> None:
        """Open, read some pages of one region, forget some others, close."""
        shadow = chance.choice(self.shadows)
        direct = os.O_DIRECT if chance.random() < 0.1 else 0
        descriptor = os.open(shadow.path, os.O_RDONLY | direct)
        buffer = memoryview(mmap.mmap(-1, PAGE))
        try:
            for _ in range(chance.randrange(1, 40)):
                page = chance.randrange(shadow.pages)
                earliest = shadow.done[page]
                length = os.preadv(descriptor, [buffer], page * PAGE)
                shadow.check(page, earliest, bytes(buffer[:length]))
                self.reads += 1
            region = chance.randrange(shadow.pages // REGION_PAGES)
            os.posix_fadvise(descriptor, region * MIB, MIB, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

    def fill(self, orders: socket.socket, chance: random.Random) -> None:
        """Have a region filled that nobody asked for."""
        shadow = chance.choice(self.shadows)
        region = chance.randrange(shadow.pages // REGION_PAGES)
        orders.send(ORDER.pack(shadow.path.stat().st_ino, region * MIB, MIB))
        assert orders.recv(1) == b"\1"


@contextmanager
def filler(mountpoint: Path) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    device = mountpoint.stat().st_dev
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "rainfs.mount.filler", str(mountpoint), str(device)],
            stdin=theirs.fileno(),
        )
        theirs.close()
        try:
            yield ours
        finally:
            ours.close()
            assert process.wait(30) == 0


@pytest.mark.parametrize("options", [(), ("writeback",)], ids=["default", "writeback"])
def test_no_stale_byte_is_read_whatever_is_filled_in_meanwhile(
    cluster: Cluster, options: tuple[str, ...], long_form: bool
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    cluster.mount(*options)
    shadows = []
    for number in range(3):
        shadow = Shadow(cluster.mountpoint / f"file{number}", 4 * REGION_PAGES)
        shadow.path.write_bytes(bytes(shadow.pages * PAGE))
        shadows.append(shadow)
    storm = Storm(cluster.mountpoint, seed, shadows)
    with filler(cluster.mountpoint) as orders:
        threads = [
            storm.spawn(storm.write, shadow, random.Random(seed + number))
            for number, shadow in enumerate(shadows)
        ]
        threads += [storm.spawn(storm.read, random.Random(seed + 10 + n)) for n in range(4)]
        threads.append(storm.spawn(storm.fill, orders, random.Random(seed + 20)))
        storm.over.wait(LONG_S if long_form else SHORT_S)
        storm.over.set()
        for thread in threads:
            thread.join()
    if storm.failures:
        raise storm.failures[0]
    assert storm.reads > 100
    assert storm.writes > 100
    cluster.remount(*options)
    for shadow in shadows:
        content = shadow.path.read_bytes()
        for page in range(shadow.pages):
            shadow.check(page, shadow.done[page], content[page * PAGE : (page + 1) * PAGE])
