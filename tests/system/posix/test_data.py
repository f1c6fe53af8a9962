"""Bytes: holes, ends of files, truncation inside and beyond stripes, O_DIRECT, limits of size."""

from __future__ import annotations

import errno
import os
import resource
import signal
from random import Random

import pytest

from tests.system.posix import calls
from tests.system.posix.spot import Spot

KIB, MIB = 1 << 10, 1 << 20
BLOCK, STRIPE = 128 * KIB, 4 * MIB
"""Of the layout that `format` chooses for 4+2."""

MAX_FILE_BYTES = 1 << 60


def pattern(size: int, seed: int = 1) -> bytes:
    return Random(seed).randbytes(size)


SIZES = [0, 1, 4095, 4096, 4097, BLOCK - 1, BLOCK, BLOCK + 1, MIB, STRIPE - 1, STRIPE, STRIPE + 1]


@pytest.mark.parametrize("size", SIZES)
def test_sizes_around_pages_blocks_and_stripes(spot: Spot, size: int) -> None:
    content = pattern(size, size)
    path = spot.file("file", content)
    spot.same(os.stat(path).st_size, size)
    calls.forget_pages(path)
    spot.true(path.read_bytes() == content, "all bytes")
    descriptor = os.open(path, os.O_RDONLY)
    spot.same(os.pread(descriptor, 10, size), b"", "at the end")
    spot.same(os.pread(descriptor, 10, size + MIB), b"", "beyond the end")
    spot.true(os.pread(descriptor, 100, max(size - 50, 0)) == content[-50:], "across the end")
    os.close(descriptor)


CUTS = [0, 1, 4096, BLOCK - 1, BLOCK, BLOCK + 1, STRIPE - 1, STRIPE, STRIPE + 1, STRIPE + BLOCK + 7]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("synced", [False, True], ids=["in memory", "on nodes"])
def test_what_is_cut_off_is_gone_and_reads_as_zeros(spot: Spot, cut: int, synced: bool) -> None:
    size = STRIPE + 2 * BLOCK
    content = pattern(size, cut)
    path = spot / "file"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    os.write(descriptor, content)
    if synced:
        os.fsync(descriptor)
    os.ftruncate(descriptor, cut)
    spot.same(os.fstat(descriptor).st_size, cut)
    calls.forget_pages(path)
    spot.true(os.pread(descriptor, size, 0) == content[:cut], "what is left")
    if spot.mounted:
        spot.same(os.fstat(descriptor).st_blocks, -(-cut // 512), "blocks")
    os.ftruncate(descriptor, size)
    spot.true(os.pread(descriptor, size, 0) == content[:cut] + bytes(size - cut), "zeros came")
    os.pwrite(descriptor, b"end", size - 3)
    if synced:
        os.fsync(descriptor)
    calls.forget_pages(path)
    want = content[:cut] + bytes(size - cut)
    want = want[: size - 3] + b"end"
    spot.true(os.pread(descriptor, size, 0) == want, "and what was written into them")
    os.close(descriptor)


def test_holes_cost_nothing_and_read_as_zeros(spot: Spot) -> None:
    path = spot / "sparse"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    offsets = [0, 100 * KIB, 5 * MIB + 17, 1 << 30, 1 << 40]
    for offset in offsets:
        os.pwrite(descriptor, b"data", offset)
    spot.same(os.fstat(descriptor).st_size, (1 << 40) + 4)
    os.fsync(descriptor)
    calls.forget_pages(path)
    for offset in offsets:
        spot.same(os.pread(descriptor, 8, offset)[:4], b"data", offset)
        around = os.pread(descriptor, 12, max(offset - 4, 0))
        spot.same(
            around,
            (bytes(4) if offset else b"")
            + b"data"
            + (b"" if offset == 1 << 40 else bytes(4 if offset else 8)),
            f"around {offset}",
        )
    for offset in (50 * KIB, 3 * MIB, 1 << 29, 1 << 39):
        spot.same(os.pread(descriptor, 5000, offset), bytes(5000), f"hole at {offset}")
    spot.true(os.fstat(descriptor).st_blocks * 512 <= 64 * KIB, "holes take no space")
    os.ftruncate(descriptor, 1 << 29)
    spot.same(os.pread(descriptor, 4, (1 << 29) - 4), bytes(4))
    spot.same(os.fstat(descriptor).st_size, 1 << 29)
    os.close(descriptor)


def test_a_write_after_the_end_leaves_zeros_between(spot: Spot) -> None:
    path = spot.file("file", b"start")
    with path.open("r+b", buffering=0) as file:
        file.seek(BLOCK + 100)
        file.write(b"end")
    want = b"start" + bytes(BLOCK + 95) + b"end"
    spot.true(path.read_bytes() == want, "zeros between")
    calls.forget_pages(path)
    spot.true(path.read_bytes() == want, "still")


def test_positions_of_descriptors(spot: Spot) -> None:
    path = spot.file("file", b"0123456789")
    descriptor = os.open(path, os.O_RDWR)
    spot.same(os.read(descriptor, 3), b"012")
    spot.same(os.pread(descriptor, 3, 7), b"789")
    spot.same(os.lseek(descriptor, 0, os.SEEK_CUR), 3, "pread moves nothing")
    spot.same(os.lseek(descriptor, -2, os.SEEK_END), 8)
    spot.same(os.write(descriptor, b"abc"), 3)
    spot.same(os.lseek(descriptor, 0, os.SEEK_CUR), 11, "write moves on")
    os.pwrite(descriptor, b"Z", 0)
    spot.same(os.lseek(descriptor, 0, os.SEEK_CUR), 11, "pwrite moves nothing")
    spot.same(os.lseek(descriptor, 100, os.SEEK_SET), 100, "beyond the end")
    spot.same(os.read(descriptor, 5), b"")
    spot.gives(errno.EINVAL, os.lseek, descriptor, -1, os.SEEK_SET)
    spot.gives(errno.EINVAL, os.lseek, descriptor, -20, os.SEEK_END)
    spot.gives(errno.EINVAL, os.lseek, descriptor, 0, 99)
    spot.gives(errno.EINVAL, os.pread, descriptor, 1, -1)
    spot.gives(errno.EINVAL, os.pwrite, descriptor, b"x", -1)
    copy = os.dup(descriptor)
    os.lseek(copy, 5, os.SEEK_SET)
    spot.same(os.read(descriptor, 2), b"56", "copies share a position")
    spot.same(os.writev(descriptor, [b"A", b"", b"BC"]), 3)
    buffers = [bytearray(2), bytearray(3)]
    spot.same(os.preadv(descriptor, buffers, 6), 5)
    spot.same(b"".join(buffers), b"6ABCc")
    os.close(copy)
    os.close(descriptor)


def test_direct_and_buffered_access_are_one_file(spot: Spot) -> None:
    path = spot / "direct"
    content = pattern(MIB)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    buffer = calls.aligned(MIB, content)
    spot.same(os.pwritev(descriptor, [buffer], 4096), MIB)
    back = calls.aligned(MIB)
    spot.same(os.preadv(descriptor, [back], 4096), MIB)
    spot.true(back[:] == content, "direct after direct")
    spot.true(path.read_bytes() == bytes(4096) + content, "buffered after direct")
    with path.open("r+b", buffering=0) as file:
        file.seek(8192)
        file.write(b"B" * 4096)
    os.preadv(descriptor, [back], 8192)
    spot.same(back[:4096], b"B" * 4096, "direct after buffered")
    buffer[:4096] = b"D" * 4096
    os.pwritev(descriptor, [memoryview(buffer)[:4096]], 8192)
    with path.open("rb", buffering=0) as file:
        file.seek(8192)
        spot.same(file.read(4096), b"D" * 4096, "buffered after direct over cached pages")
    spot.same(os.preadv(descriptor, [back], MIB), 4096, "up to the end")
    spot.same(os.preadv(descriptor, [back], MIB + 4096), 0, "at the end")
    os.ftruncate(descriptor, 6000)
    spot.same(os.preadv(descriptor, [back], 4096), 6000 - 4096, "a last part of a page")
    os.close(descriptor)


@pytest.mark.parametrize("flag", ["O_SYNC", "O_DSYNC"])
def test_synchronous_writes(spot: Spot, flag: str) -> None:
    path = spot / "file"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, flag))
    for number in range(5):
        spot.same(os.pwrite(descriptor, b"%d" % number, number), 1)
    os.fdatasync(descriptor)
    spot.same(os.pread(descriptor, 10, 0), b"01234")
    os.close(descriptor)


def test_files_end_at_two_to_the_sixtieth(mounted: Spot) -> None:
    path = mounted / "file"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    mounted.same(os.pwrite(descriptor, b"last", MAX_FILE_BYTES - 4), 4)
    mounted.same(os.fstat(descriptor).st_size, MAX_FILE_BYTES)
    mounted.gives(errno.EFBIG, os.pwrite, descriptor, b"x", MAX_FILE_BYTES)
    mounted.same(os.pwrite(descriptor, b"0123456789", MAX_FILE_BYTES - 4), 4, "what has room")
    direct = os.open(path, os.O_WRONLY | os.O_DIRECT)
    last = [calls.aligned(8192)]
    mounted.gives(errno.EFBIG, os.pwritev, direct, last, MAX_FILE_BYTES - 4096)
    mounted.gives(errno.EFBIG, os.pwritev, direct, last, MAX_FILE_BYTES)
    os.close(direct)
    os.pwrite(descriptor, b"0123", MAX_FILE_BYTES - 4)
    mounted.gives(errno.EFBIG, os.ftruncate, descriptor, MAX_FILE_BYTES + 1)
    mounted.gives(errno.EFBIG, os.truncate, path, (1 << 63) - 1)
    mounted.gives(errno.EINVAL, os.truncate, path, -1)
    os.fsync(descriptor)
    calls.forget_pages(path)
    mounted.same(os.pread(descriptor, 10, MAX_FILE_BYTES - 4), b"0123")
    mounted.same(os.fstat(descriptor).st_size, MAX_FILE_BYTES)
    mounted.gives(0, os.ftruncate, descriptor, MAX_FILE_BYTES)
    os.close(descriptor)


def _limited(path: str, limit: int) -> tuple[int, int, int]:
    """Write and truncate under a limit of file size: bytes of two writes, errno of a truncate."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    first = os.pwrite(descriptor, b"x" * 100, limit - 50)
    numbers = []
    for call, arguments in ((os.pwrite, (b"x", limit)), (os.ftruncate, (limit + 1,))):
        try:
            call(descriptor, *arguments)
            numbers.append(0)
        except OSError as error:
            numbers.append(error.errno or 0)
    os.close(descriptor)
    return first, numbers[0], numbers[1]


def test_the_limit_of_a_process(spot: Spot) -> None:
    rival = spot.process()
    got = rival.run(_limited, spot / "file", 10_000)
    rival.close()
    spot.same(got, (50, errno.EFBIG, errno.EFBIG))
    spot.same(os.stat(spot / "file").st_size, 10_000)


def test_what_is_not_offered_fails_as_the_kernel_says(mounted: Spot) -> None:
    path = mounted.file("file", b"x" * 5000)
    descriptor = os.open(path, os.O_RDWR)
    for mode in (0, 1, 3, 8, 16):
        mounted.gives(errno.EOPNOTSUPP, calls.fallocate, descriptor, mode, 0, 10_000)
    mounted.same(os.fstat(descriptor).st_size, 5000, "size after fallocate")
    mounted.same(os.lseek(descriptor, 100, os.SEEK_DATA), 100, "all is data")
    mounted.same(os.lseek(descriptor, 100, os.SEEK_HOLE), 5000, "the hole at the end")
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        mounted.gives(errno.ENXIO, os.lseek, descriptor, 5000, whence)
    for request in (calls.FS_IOC_GETFLAGS, 0x5401, 0x12345678):
        mounted.gives(errno.ENOTTY, calls.ioctl, descriptor, request)
    mounted.gives(errno.EOPNOTSUPP, calls.ioctl, descriptor, calls.FS_IOC_FIEMAP)
    mounted.gives(errno.EOPNOTSUPP, os.open, mounted.path, os.O_TMPFILE | os.O_RDWR)
    os.close(descriptor)


def test_copy_file_range_copies(spot: Spot) -> None:
    content = pattern(300_000)
    source, target = spot.file("source", content), spot.file("target", b"")
    with source.open("rb") as one, target.open("r+b") as two:
        copied = 0
        while copied < 200_000:
            copied += os.copy_file_range(
                one.fileno(), two.fileno(), 200_000 - copied, 50_000 + copied, copied
            )
        spot.gives(errno.EBADF, os.copy_file_range, one.fileno(), one.fileno(), 10)
        spot.same(os.copy_file_range(one.fileno(), two.fileno(), 10, 400_000, 0), 0, "at the end")
        spot.same(os.sendfile(two.fileno(), one.fileno(), 0, 100), 100, "sendfile")
    spot.true(target.read_bytes()[100:] == content[50_100:250_000], "what was copied")
    spot.true(target.read_bytes()[:100] == content[:100], "what was sent")


def test_space_of_the_file_system(mounted: Spot) -> None:
    found = os.statvfs(mounted.path)
    mounted.same(found.f_namemax, 255)
    mounted.same(found.f_bsize, found.f_frsize)
    mounted.true(0 < found.f_bavail <= found.f_bfree <= found.f_blocks, "blocks")
    mounted.true(found.f_favail > 1 << 30, "files")
    mounted.true(not found.f_flag & os.ST_RDONLY, "not read-only")
    path = mounted.file("file")
    mounted.same(os.statvfs(path).f_blocks, found.f_blocks, "the same of a file")
    mounted.same(os.stat(path).st_dev, os.stat(mounted.root).st_dev, "one device")
    mounted.true(os.stat(path).st_dev != os.stat("/proc").st_dev, "of its own")


def _append(path: str, who: int, count: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in range(count):
        os.write(descriptor, b"%d:%05d:%s\n" % (who, number, b"x" * (number % 90)))
    os.close(descriptor)


@pytest.mark.parametrize("sizes", [(4, 150), (8, 40)])
def test_appends_of_processes_never_overlap(spot: Spot, sizes: tuple[int, int]) -> None:
    writers, each = sizes
    path = spot.file("log", b"")
    rivals = [spot.process() for _ in range(writers)]
    for number, rival in enumerate(rivals):
        rival.start(_append, path, number, each)
    for rival in rivals:
        rival.finish()
        rival.close()
    lines = path.read_bytes().splitlines()
    spot.same(len(lines), writers * each, "lines")
    for number in range(writers):
        mine = [line for line in lines if line.startswith(b"%d:" % number)]
        want = [b"%d:%05d:%s" % (number, i, b"x" * (i % 90)) for i in range(each)]
        spot.true(mine == want, f"the lines of writer {number}, in their order")


def test_an_append_ignores_the_position(spot: Spot) -> None:
    path = spot.file("file", b"0123456789")
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
    os.lseek(descriptor, 2, os.SEEK_SET)
    os.write(descriptor, b"ab")
    spot.same(os.lseek(descriptor, 0, os.SEEK_CUR), 12, "the position after it")
    os.pwrite(descriptor, b"cd", 0)
    spot.same(path.read_bytes(), b"0123456789abcd", "pwrite appends as well, on Linux")
    os.truncate(path, 3)
    os.write(descriptor, b"e")
    spot.same(path.read_bytes(), b"012e", "the end is where the file ends now")
    os.close(descriptor)
