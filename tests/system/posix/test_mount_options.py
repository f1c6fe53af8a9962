"""A read-only mount refuses every change; noatime and relatime; nosuid and nodev."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.harness import Cluster, cluster_in, run
from tests.system.posix import calls
from tests.system.posix.actor import Actors
from tests.system.posix.spot import Spot

OLD_NS = 1_000_000_000_000_000_000


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A volume of its own over one node, that tests mount as they like."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    with cluster_in(tmp_path_factory.mktemp("options"), nodes=1, code=("--mirror", 1)) as made:
        yield made


def _spot(cluster: Cluster) -> Spot:
    root = cluster.mountpoint
    return Spot("mount", root, root / "top", Actors(root))


def _furnish(top: Path) -> None:
    top.mkdir()
    (top / "file").write_bytes(b"content")
    os.chmod(top / "file", 0o666)
    os.setxattr(top / "file", "user.test", b"value")
    os.link(top / "file", top / "twin")
    (top / "empty").mkdir()
    (top / "full").mkdir()
    (top / "full" / "inner").write_bytes(b"")
    os.symlink("file", top / "link")
    os.mkfifo(top / "fifo")
    calls.made_device(top / "device")


CHANGES: list[tuple[Callable[..., object], tuple[str, ...]]] = [
    (calls.created, ("new",)),
    (calls.created_exclusively, ("new",)),
    (calls.opened_for_writing, ("file",)),
    (calls.opened_for_writing, ("link",)),
    (calls.opened_for_both, ("file",)),
    (calls.opened_truncating, ("file",)),
    (calls.opened_appending, ("file",)),
    (os.mkdir, ("new",)),
    (os.mkfifo, ("new",)),
    (calls.made_device, ("new",)),
    (calls.made_socket, ("new",)),
    (calls.symlinked_at, ("new",)),
    (os.link, ("file", "new")),
    (os.unlink, ("file",)),
    (os.unlink, ("link",)),
    (os.unlink, ("fifo",)),
    (os.rmdir, ("empty",)),
    (os.rename, ("file", "new")),
    (os.rename, ("file", "twin")),
    (os.rename, ("file", "link")),
    (os.rename, ("empty", "new")),
    (calls.chmod_600, ("file",)),
    (calls.chmod_600, ("full",)),
    (calls.chowned, ("file",)),
    (calls.lchowned, ("link",)),
    (calls.truncated_to_three, ("file",)),
    (calls.timed, ("file",)),
    (calls.touched, ("full",)),
    (calls.timed_nofollow, ("link",)),
    (calls.set_xattr, ("file",)),
    (calls.removed_xattr, ("file",)),
    (calls.writable, ("file",)),
    (calls.writable, ("full",)),
]

READS: list[tuple[Callable[..., object], tuple[str, ...]]] = [
    (os.stat, ("file",)),
    (os.listdir, ("full",)),
    (os.readlink, ("link",)),
    (calls.opened_for_reading, ("file",)),
    (calls.read_bytes, ("file",)),
    (calls.got_xattr, ("file",)),
    (os.listxattr, ("file",)),
    (os.statvfs, ("file",)),
    (calls.readable, ("file",)),
    (calls.opened_for_both, ("fifo",)),
    (calls.writable, ("fifo",)),
    (calls.writable, ("device",)),
]


def test_a_read_only_mount_refuses_every_change(small: Cluster) -> None:
    small.mount()
    _furnish(small.mountpoint / "top")
    os.chmod(small.mountpoint, 0o755)
    small.remount("ro")
    spot = _spot(small)
    before = _state(spot.path)
    users = (None, spot.user(1000))
    for user in users:
        run = _itself if user is None else user.run
        for call, names in CHANGES:
            if user is not None and call in (calls.made_device,):
                continue  # refused for want of the right to make devices
            if not (user and call in (calls.chmod_600, calls.chowned, calls.lchowned)):
                spot.gives(errno.EROFS, run, call, *(spot / name for name in names))
        for call, names in READS:
            if not (user and names[0] in ("device", "fifo")):
                spot.gives(0, run, call, *(spot / name for name in names))
    spot.gives(errno.EEXIST, os.mkdir, spot / "file")
    descriptor = os.open(spot / "file", os.O_RDONLY)
    spot.gives(errno.EROFS, os.fchmod, descriptor, 0o600)
    spot.gives(errno.EROFS, os.utime, descriptor, (1, 2))
    spot.gives(0, os.fsync, descriptor)
    os.close(descriptor)
    spot.true(os.statvfs(spot.path).f_flag & os.ST_RDONLY, "statvfs says so")
    spot.same(_state(spot.path), before, "nothing changed, access times neither")
    spot.user(1000).close()
    small.umount()


def _itself(call: Callable[..., object], *arguments: object) -> object:
    return call(*arguments)


def _state(top: Path) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for directory, names, files in os.walk(top):
        for name in sorted(names + files):
            seen = os.lstat(os.path.join(directory, name))
            found.append((name, seen.st_mode, seen.st_size, seen.st_atime_ns, seen.st_ctime_ns))
    return found


def _age(path: Path, atime_ns: int, mtime_ns: int) -> None:
    os.utime(path, ns=(atime_ns, mtime_ns), follow_symlinks=False)


def test_access_times_with_noatime_and_relatime(small: Cluster) -> None:
    for options, moves in (((), True), (("noatime",), False)):
        small.mount(*options)
        spot = _spot(small)
        top = small.mountpoint / f"times-{moves}"
        top.mkdir()
        (top / "d").mkdir()
        (top / "d" / "inner").write_bytes(b"")
        (top / "file").write_bytes(b"content")
        os.symlink("file", top / "link")
        for name in ("file", "d", "link"):
            _age(top / name, OLD_NS, OLD_NS + 1)
        calls.forget_pages(top / "file")
        calls.read_bytes(top / "file")
        os.listdir(top / "d")
        os.readlink(top / "link")
        for name in ("file", "d", "link"):
            moved = os.lstat(top / name).st_atime_ns != OLD_NS
            spot.same(moved, moves, f"access time of the {name} with {options}")
        seen = os.stat(top / "file").st_atime_ns
        calls.forget_pages(top / "file")
        calls.read_bytes(top / "file")
        spot.same(os.stat(top / "file").st_atime_ns, seen, "a second read within a day")
        small.umount()


def test_nosuid_nodev_noexec_and_noxattr(small: Cluster) -> None:
    small.mount("nosuid", "nodev", "noexec", "noxattr")
    spot = _spot(small)
    os.mknod(small.mountpoint / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    spot.gives(errno.EACCES, calls.opened_for_reading, small.mountpoint / "null")
    program = small.mountpoint / "program"
    program.write_bytes(b"#!/bin/true\n")
    os.chmod(program, 0o4755)
    spot.gives(errno.EACCES, calls.executed, program)
    flags = os.statvfs(small.mountpoint).f_flag
    wanted = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
    spot.same(flags & wanted, wanted)
    spot.gives(errno.EOPNOTSUPP, os.setxattr, program, "user.a", b"1")
    spot.gives(errno.EOPNOTSUPP, os.getxattr, program, "user.a")
    spot.gives(errno.EOPNOTSUPP, os.listxattr, program)
    spot.gives(errno.EOPNOTSUPP, os.removexattr, program, "user.a")
    spot.same(program.read_bytes(), b"#!/bin/true\n")
    small.umount()


def test_removed_files_leave_no_error_to_syncfs_where_the_kernel_keeps_times(
    small: Cluster,
) -> None:
    small.mount("writeback")
    try:
        root = small.mountpoint
        for number in range(20):
            (root / f"f{number}").write_bytes(b"content")
            os.rename(root / f"f{number}", root / f"g{number}")
            os.unlink(root / f"g{number}")
        (root / "stays").write_bytes(b"stays")
        run("sync", "-f", root)
        small.remount("writeback")
        assert (root / "stays").read_bytes() == b"stays"
    finally:
        small.umount()
