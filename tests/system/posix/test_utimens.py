"""utimensat(2): now, omit, ranges, and who may."""

from __future__ import annotations

import errno
import os
import time

import pytest

from tests.system.posix import calls
from tests.system.posix.spot import Spot

S = 1_000_000_000
NOW, OMIT = calls.UTIME_NOW, calls.UTIME_OMIT

MOMENTS = [
    (0, 0),
    (0, 1),
    (0, 999_999_999),
    (1, 0),
    (1_234_567_890, 123_456_789),
    ((1 << 31) - 1, 999_999_999),
    (1 << 31, 0),
    ((1 << 32) - 1, 5),
    (1 << 32, 5),
    (-1, 0),
    (-1, 999_999_999),
    (-(1 << 31), 0),
]
"""Seconds and nanoseconds that every file system of today keeps."""

FAR = [(1 << 33, 7), (9_223_372_036, 854_775_807), (-(1 << 32), 9), (-9_223_372_036, 0)]


@pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo"])
def test_moments_are_kept_to_the_nanosecond(spot: Spot, kind: str) -> None:
    path = spot / "object"
    make = {
        "file": calls.created,
        "directory": os.mkdir,
        "link": calls.symlinked_at,
        "fifo": os.mkfifo,
    }[kind]
    make(path)
    moments = MOMENTS + (FAR if spot.mounted else [])
    for atime, mtime in zip(moments, reversed(moments), strict=True):
        calls.utimensat(path, atime, mtime, calls.AT_SYMLINK_NOFOLLOW)
        found = os.lstat(path)
        spot.same(found.st_atime_ns, atime[0] * S + atime[1], "atime")
        spot.same(found.st_mtime_ns, mtime[0] * S + mtime[1], "mtime")


def test_moments_out_of_range_become_the_nearest(mounted: Spot) -> None:
    path = mounted.file("file")
    for seconds, want in ((1 << 40, (1 << 63) - 1), (-(1 << 40), -(1 << 63))):
        mounted.gives(0, calls.utimensat, path, (seconds, 0), (seconds, 0))
        found = os.stat(path)
        mounted.same((found.st_atime_ns, found.st_mtime_ns), (want, want), seconds)
    descriptor = os.open(path, os.O_RDONLY)
    mounted.gives(0, os.fsync, descriptor)
    os.close(descriptor)


def test_now_and_omit(spot: Spot) -> None:
    path = spot.file("file")
    calls.utimensat(path, (5, 6), (7, 8))
    before = os.stat(path)
    calls.utimensat(path, (0, OMIT), (0, OMIT))
    after = os.stat(path)
    spot.same(after.st_atime_ns, 5 * S + 6)
    spot.same(after.st_mtime_ns, 7 * S + 8)
    spot.same(after.st_ctime_ns, before.st_ctime_ns, "nothing changed")
    begin = time.time_ns() - S // 10
    calls.utimensat(path, (0, NOW), (0, OMIT))
    found = os.stat(path)
    spot.true(begin < found.st_atime_ns < time.time_ns() + S // 10, "atime is now")
    spot.same(found.st_mtime_ns, 7 * S + 8, "mtime was omitted")
    calls.utimensat(path, (9, 1), (0, NOW))
    found = os.stat(path)
    spot.same(found.st_atime_ns, 9 * S + 1)
    spot.true(begin < found.st_mtime_ns < time.time_ns() + S // 10, "mtime is now")
    calls.utimensat(path, (0, NOW), (0, NOW))
    found = os.stat(path)
    spot.same(found.st_atime_ns, found.st_mtime_ns, "one moment")
    spot.gives(0, calls.utimensat, path, (1 << 50, OMIT), (1 << 50, OMIT))


def test_refusals(spot: Spot) -> None:
    path = spot.file("file")
    for nanoseconds in (-1, 1_000_000_000, 1 << 40):
        spot.gives(errno.EINVAL, calls.utimensat, path, (1, nanoseconds), (1, 0))
        spot.gives(errno.EINVAL, calls.utimensat, path, (1, 0), (1, nanoseconds))
    spot.gives(errno.EINVAL, calls.utimensat, path, (1, 0), (1, 0), 0x8000)
    spot.gives(errno.ENOENT, calls.utimensat, spot / "absent", (1, 0), (1, 0))
    os.symlink("absent", spot / "dangling")
    spot.gives(errno.ENOENT, calls.utimensat, spot / "dangling", (1, 0), (1, 0))
    spot.gives(0, calls.utimensat, spot / "dangling", (1, 0), (1, 0), calls.AT_SYMLINK_NOFOLLOW)
    owner, other = spot.user(1000), spot.user(1001)
    os.chown(path, 1000, 1000)
    os.chmod(path, 0o600)
    spot.gives(0, owner.run, calls.utimensat, path, (1, 0), (1, 0))
    spot.gives(errno.EACCES, other.run, calls.utimensat, path, (0, NOW), (0, NOW))
    for times in (
        ((1, 0), (1, 0)),
        ((0, NOW), (0, OMIT)),
        ((0, OMIT), (0, NOW)),
        ((0, NOW), (1, 0)),
    ):
        spot.gives(errno.EPERM, other.run, calls.utimensat, path, *times)
        os.chmod(path, 0o666)
        spot.gives(errno.EPERM, other.run, calls.utimensat, path, *times)
        os.chmod(path, 0o600)
    os.chmod(path, 0o666)
    spot.gives(0, other.run, calls.utimensat, path, (0, NOW), (0, NOW))
    spot.gives(0, other.run, calls.utimensat, path, (0, OMIT), (0, OMIT))


def test_set_times_outlive_the_writing_of_bytes(spot: Spot) -> None:
    path = spot / "file"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"x" * 300_000)
    os.utime(descriptor, ns=(3, 4))
    os.fsync(descriptor)
    found = os.fstat(descriptor)
    spot.same((found.st_atime_ns, found.st_mtime_ns), (3, 4), "after fsync")
    os.close(descriptor)
    found = os.stat(path)
    spot.same((found.st_atime_ns, found.st_mtime_ns), (3, 4), "after close")
    with path.open("ab") as file:
        file.write(b"y")
    spot.true(os.stat(path).st_mtime_ns > 4, "a later write moves it")
