"""Mappings: shared ones are the file, private ones are not, and both end where the file ends."""

from __future__ import annotations

import errno
import mmap
import os
import signal
from pathlib import Path

from tests.system.posix import calls
from tests.system.posix.spot import Spot

PAGE = 4096
SIZE = 300_000


def test_a_shared_mapping_and_the_file_are_one(spot: Spot) -> None:
    path = spot.file("file", b"a" * SIZE)
    with path.open("r+b", buffering=0) as file, mmap.mmap(file.fileno(), 0) as mapped:
        for offset in (0, 1, PAGE - 1, PAGE, 131_071, 131_072, SIZE - 3):
            mapped[offset : offset + 3] = b"map"
            spot.same(os.pread(file.fileno(), 3, offset), b"map", f"read after store at {offset}")
            os.pwrite(file.fileno(), b"wri", offset)
            spot.same(mapped[offset : offset + 3], b"wri", f"load after write at {offset}")
            mapped[offset : offset + 3] = b"MAP"
        with path.open("rb", buffering=0) as other:
            spot.same(os.pread(other.fileno(), 3, PAGE), b"MAP", "another descriptor")
        mapped.flush()
    calls.forget_pages(path)
    content = path.read_bytes()
    for offset in (1, PAGE, 131_072, SIZE - 3):
        spot.same(content[offset : offset + 3], b"MAP", f"on the nodes at {offset}")
    spot.same(len(content), SIZE)


def test_two_mappings_and_two_processes_share(spot: Spot) -> None:
    path = spot.file("file", bytes(SIZE))
    rival = spot.process()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as one:
        with mmap.mmap(file.fileno(), 0) as two:
            one[5:8] = b"one"
            spot.same(two[5:8], b"one")
        for number in range(10):
            offset = number * 20_000
            rival.run(_store, path, offset, b"%d" % number)
            spot.same(one[offset : offset + 1], b"%d" % number, f"stored elsewhere at {offset}")
            one[offset + 1 : offset + 3] = b"ok"
            spot.same(rival.run(_load, path, offset, 3), b"%dok" % number, "seen elsewhere")
    rival.close()
    spot.same(path.read_bytes()[20_000:20_003], b"1ok", "after the mapping is gone")


def _store(path: str, offset: int, value: bytes) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[offset : offset + len(value)] = value


def _load(path: str, offset: int, length: int) -> bytes:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        return mapped[offset : offset + length]


def test_a_private_mapping_changes_nothing(spot: Spot) -> None:
    path = spot.file("file", b"a" * 10_000)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        mapped[0:3] = b"own"
        spot.same(mapped[0:4], b"owna")
        spot.same(path.read_bytes()[:4], b"aaaa")
        mapped.close()
    spot.same(path.read_bytes(), b"a" * 10_000)


def test_a_mapping_follows_the_end_of_its_file(spot: Spot) -> None:
    path = spot.file("file", b"a" * (3 * PAGE))
    with path.open("r+b", buffering=0) as file, mmap.mmap(file.fileno(), 3 * PAGE) as mapped:
        os.ftruncate(file.fileno(), PAGE + 10)
        spot.same(mapped[PAGE + 8 : PAGE + 14], b"aa" + bytes(4), "zeros behind the end")
        mapped[PAGE + 20 : PAGE + 23] = b"xyz"
        mapped.flush()
        os.ftruncate(file.fileno(), 3 * PAGE)
        spot.same(os.pread(file.fileno(), 6, PAGE + 8), b"aa" + bytes(4), "still zeros")
        spot.same(mapped[2 * PAGE : 2 * PAGE + 3], bytes(3), "and a hole")
        mapped[2 * PAGE : 2 * PAGE + 3] = b"new"
        spot.same(os.pread(file.fileno(), 3, 2 * PAGE), b"new", "written into the hole")
    calls.forget_pages(path)
    spot.same(path.read_bytes()[2 * PAGE : 2 * PAGE + 4], b"new\0")


def _touch_beyond(path: str) -> None:
    with open(path, "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 3 * PAGE)
        os.ftruncate(file.fileno(), 10)
        mapped[2 * PAGE]


def test_a_page_beyond_the_end_is_a_bus_error(spot: Spot) -> None:
    path = spot.file("file", b"a" * (3 * PAGE))
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        _touch_beyond(os.fspath(path))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    spot.true(os.WIFSIGNALED(status), "the process was ended")
    spot.same(os.WTERMSIG(status), signal.SIGBUS)


def test_a_mapping_outlives_descriptor_and_name(spot: Spot) -> None:
    path = spot.file("file", b"a" * SIZE)
    descriptor = os.open(path, os.O_RDWR)
    mapped = mmap.mmap(descriptor, 0)
    os.close(descriptor)
    mapped[0:3] = b"map"
    spot.same(path.read_bytes()[:3], b"map", "without its descriptor")
    os.unlink(path)
    mapped[3:6] = b"MAP"
    spot.same(mapped[0:8], b"mapMAPaa", "without its name")
    mapped.flush()
    mapped.close()
    spot.true(not path.exists(), "the name")


def test_rights_of_mappings_are_those_of_descriptors(spot: Spot) -> None:
    path = spot.file("file", b"a" * PAGE)
    for flags, prot, want in (
        (os.O_RDONLY, mmap.PROT_READ | mmap.PROT_WRITE, errno.EACCES),
        (os.O_WRONLY, mmap.PROT_READ, errno.EACCES),
        (os.O_RDWR, mmap.PROT_READ | mmap.PROT_WRITE, 0),
        (os.O_RDONLY, mmap.PROT_READ, 0),
    ):
        descriptor = os.open(path, flags)
        spot.gives(want, _mapped, descriptor, prot)
        os.close(descriptor)
    directory = os.open(spot.path, os.O_RDONLY)
    spot.gives(errno.ENODEV, _mapped, directory, mmap.PROT_READ)
    os.close(directory)


def _mapped(descriptor: int, prot: int) -> None:
    mmap.mmap(descriptor, PAGE, flags=mmap.MAP_SHARED, prot=prot).close()


def test_sparse_files_are_filled_through_a_mapping(spot: Spot) -> None:
    path = Path(spot / "sparse")
    with path.open("w+b") as file:
        file.truncate(64 << 20)
        with mmap.mmap(file.fileno(), 0) as mapped:
            for offset in range(0, 64 << 20, 7 << 20):
                spot.same(mapped[offset : offset + 4], bytes(4), f"hole at {offset}")
                mapped[offset : offset + 4] = b"here"
            mapped.flush()
    calls.forget_pages(path)
    with path.open("rb") as file:
        for offset in range(0, 64 << 20, 7 << 20):
            spot.same(os.pread(file.fileno(), 5, offset), b"here\0", f"stored at {offset}")
    spot.true(os.stat(path).st_blocks * 512 < 4 << 20, "holes stay holes")


def test_a_mapping_with_direct_access_beside_it(spot: Spot) -> None:
    path = spot.file("file", b"a" * (4 * PAGE))
    direct = os.open(path, os.O_RDWR | os.O_DIRECT)
    buffer = calls.aligned(PAGE, b"D" * PAGE)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        spot.same(mapped[PAGE : PAGE + 2], b"aa")
        os.pwritev(direct, [buffer], PAGE)
        spot.same(mapped[PAGE : PAGE + 2], b"DD", "load after direct write")
        mapped[0:2] = b"MM"
        os.preadv(direct, [buffer], 0)
        spot.same(buffer[:3], b"MMa", "direct read after store")
    os.close(direct)
