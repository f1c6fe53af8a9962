"""Files and directories whose last name is gone while somebody has them open."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.posix import calls
from tests.system.posix.spot import Spot


def _by_rename(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"other")
    os.rename(other, path)


@pytest.mark.parametrize("remove", [os.unlink, _by_rename], ids=["unlink", "rename"])
def test_everything_works_without_a_name(spot: Spot, remove: Callable[[Path], None]) -> None:
    path = spot.file("file", b"a" * 100_000)
    descriptor = os.open(path, os.O_RDWR)
    second = os.open(path, os.O_RDONLY)
    remove(path)
    spot.same(os.fstat(descriptor).st_nlink, 0, "names")
    spot.same(os.pwrite(descriptor, b"b", 50_000), 1)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    spot.same(os.pread(second, 3, 49_999), b"aba", "another descriptor sees the write")
    spot.gives(0, os.fchmod, descriptor, 0o600)
    spot.gives(0, os.fchown, descriptor, 1000, 1000)
    spot.gives(0, os.ftruncate, descriptor, 10)
    spot.gives(0, os.utime, descriptor, (5, 6))
    spot.gives(0, os.setxattr, descriptor, "user.a", b"value")
    spot.same(os.getxattr(descriptor, "user.a"), b"value")
    spot.same(os.listxattr(descriptor), ["user.a"])
    spot.gives(0, os.removexattr, descriptor, "user.a")
    found = os.fstat(second)
    spot.same(
        (found.st_size, found.st_mode & 0o7777, found.st_uid, found.st_gid, found.st_mtime),
        (10, 0o600, 1000, 1000, 6.0),
        "what the other descriptor sees",
    )
    with mmap.mmap(descriptor, 10) as mapped:
        mapped[0:3] = b"map"
        mapped.flush()
    spot.same(os.pread(second, 10, 0), b"mapaaaaaaa", "a mapping")
    reopened = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
    spot.same(os.read(reopened, 3), b"map", "opened again through /proc")
    os.close(reopened)
    itself = f"/proc/self/fd/{descriptor}"
    spot.gives(errno.ENOENT, calls.linkat, itself, spot / "new", calls.AT_SYMLINK_FOLLOW)
    os.close(descriptor)
    spot.same(os.pread(second, 3, 0), b"map", "the last descriptor")
    os.close(second)


def test_a_name_may_be_taken_again_at_once(spot: Spot) -> None:
    path = spot.file("file", b"first")
    with path.open("rb") as held:
        os.unlink(path)
        path.write_bytes(b"second")
        spot.same(held.read(), b"first")
        spot.same(path.read_bytes(), b"second")
        spot.true(os.fstat(held.fileno()).st_ino != os.stat(path).st_ino, "two inodes")


def test_one_of_two_names_goes(spot: Spot) -> None:
    path = spot.file("one")
    os.link(path, spot / "two")
    with path.open("r+b", buffering=0) as held:
        os.unlink(path)
        spot.same(os.fstat(held.fileno()).st_nlink, 1)
        held.write(b"CON")
        spot.same((spot / "two").read_bytes(), b"CONtent")
        spot.gives(0, os.rename, spot / "two", spot / "three")
        spot.same((spot / "three").read_bytes(), b"CONtent")


def test_a_removed_directory_is_empty_and_takes_nothing(spot: Spot) -> None:
    directory = spot.directory("d")
    descriptor = os.open(directory, os.O_RDONLY)
    os.rmdir(directory)
    spot.same(os.fstat(descriptor).st_nlink, 0, "links")
    spot.same(os.listdir(descriptor), [], "entries")
    for call, arguments in (
        (os.open, ("new", os.O_CREAT | os.O_WRONLY)),
        (os.mkdir, ("new",)),
        (os.mkfifo, ("new",)),
        (os.symlink, ("target", "new")),
        (os.stat, ("new",)),
        (os.unlink, ("new",)),
    ):
        spot.gives(errno.ENOENT, _below(call, descriptor), *arguments)
    source = spot.file("file")
    spot.gives(errno.ENOENT, lambda: os.rename(source, "new", dst_dir_fd=descriptor))
    spot.gives(errno.ENOENT, lambda: os.link(source, "new", dst_dir_fd=descriptor))
    spot.gives(0, os.fchmod, descriptor, 0o700)
    spot.gives(0, os.fsync, descriptor)
    os.close(descriptor)


def _below(call: Callable[..., object], descriptor: int) -> Callable[..., object]:
    def bound(*arguments: object) -> object:
        return call(*arguments, dir_fd=descriptor)

    bound.__name__ = call.__name__
    return bound


def test_a_directory_replaced_by_a_rename_is_gone(spot: Spot) -> None:
    old, new = spot.directory("old"), spot.directory("new")
    (new / "inner").write_bytes(b"")
    descriptor = os.open(old, os.O_RDONLY)
    os.rename(new, old)
    spot.same(os.fstat(descriptor).st_nlink, 0)
    spot.same(os.listdir(descriptor), [])
    spot.same(os.listdir(old), ["inner"])
    os.close(descriptor)


def test_a_process_in_a_removed_directory(spot: Spot) -> None:
    directory = spot.directory("d")
    process = spot.process()
    process.run(os.chdir, directory)
    os.rmdir(directory)
    spot.gives(errno.ENOENT, process.run, os.getcwd)
    spot.gives(errno.ENOENT, process.run, calls.created, "file")
    spot.gives(0, process.run, os.stat, ".")
    process.close()


def test_space_of_unlinked_files_is_counted_until_they_are_closed(mounted: Spot) -> None:
    path = mounted.file("file", os.urandom(1 << 20))
    with path.open("rb") as held:
        os.unlink(path)
        mounted.same(os.fstat(held.fileno()).st_blocks * 512, 1 << 20)
    shutil.rmtree(mounted.path)
    mounted.true(not mounted.path.exists(), "the tree can be removed")
