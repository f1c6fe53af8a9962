"""Extended attributes: values, flags, limits, namespaces, who may see and set them."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from pathlib import Path

import pytest

from tests.system.posix import calls
from tests.system.posix.spot import Spot

MAX_VALUE_BYTES = 65536
MAX_NAME_BYTES = 255
MAX_ATTRIBUTES = 256

SIZES = (0, 1, 2, 255, 256, 1000, 3000)
LARGE_SIZES = (4096, 10_000, 65_535, 65_536)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_values_of_all_sizes_come_back(spot: Spot, kind: str) -> None:
    path = spot.file("o") if kind == "file" else spot.directory("o")
    for size in SIZES + (LARGE_SIZES if spot.mounted else ()):
        value = os.urandom(size)
        os.setxattr(path, "user.value", value)
        spot.same(os.getxattr(path, "user.value"), value, size)
        os.setxattr(path, "user.value", b"short")
        spot.same(os.getxattr(path, "user.value"), b"short", f"after {size}")
    os.removexattr(path, "user.value")
    spot.gives(errno.ENODATA, os.getxattr, path, "user.value")
    spot.same(os.listxattr(path), [])


def test_names_are_bytes_of_any_length_up_to_the_limit(spot: Spot) -> None:
    path = spot.file("file")
    for length in (6, 7, 100, 254, 255):
        name = b"user." + b"n" * (length - 5)
        spot.gives(0, os.setxattr, path, name, b"%d" % length)
        spot.same(os.getxattr(path, name), b"%d" % length, length)
    strange = [b"user.\xff\xfe", b"user. ", b"user.\n", b"user.a/b", b"user.USER", b"user.user"]
    for name in strange:
        spot.gives(0, os.setxattr, path, name, name)
        spot.same(os.getxattr(path, name), name)
    listed = {os.fsencode(name) for name in os.listxattr(path)}
    spot.true(set(strange) <= listed and len(listed) == len(strange) + 5, "all are listed")
    too_long = b"user." + b"n" * 251
    spot.gives(errno.ERANGE, os.setxattr, path, too_long, b"")
    spot.gives(errno.ERANGE, os.getxattr, path, too_long)
    spot.gives(errno.ERANGE, os.removexattr, path, too_long)
    for call in (os.getxattr, os.removexattr):
        spot.gives(errno.ERANGE, call, path, b"")
    spot.gives(errno.ERANGE, os.setxattr, path, b"", b"v")


def test_flags(spot: Spot) -> None:
    path = spot.file("file")
    spot.gives(errno.ENODATA, os.setxattr, path, "user.a", b"1", os.XATTR_REPLACE)
    spot.gives(0, os.setxattr, path, "user.a", b"1", os.XATTR_CREATE)
    spot.gives(errno.EEXIST, os.setxattr, path, "user.a", b"2", os.XATTR_CREATE)
    spot.same(os.getxattr(path, "user.a"), b"1", "CREATE changed nothing")
    spot.gives(0, os.setxattr, path, "user.a", b"3", os.XATTR_REPLACE)
    spot.same(os.getxattr(path, "user.a"), b"3", "REPLACE")
    spot.gives(errno.ENODATA, os.setxattr, path, "user.b", b"1", os.XATTR_REPLACE)
    spot.gives(0, os.setxattr, path, "user.b", b"2", os.XATTR_CREATE)
    spot.gives(errno.EINVAL, os.setxattr, path, "user.a", b"4", 4)
    spot.same(sorted(os.listxattr(path)), ["user.a", "user.b"])


def test_limits(mounted: Spot) -> None:
    path = mounted.file("file")
    mounted.gives(errno.E2BIG, os.setxattr, path, "user.big", bytes(MAX_VALUE_BYTES + 1))
    mounted.gives(errno.ENODATA, os.getxattr, path, "user.big")
    for number in range(MAX_ATTRIBUTES):
        os.setxattr(path, f"user.{number}", b"v")
    mounted.gives(errno.ENOSPC, os.setxattr, path, "user.more", b"v")
    mounted.same(len(os.listxattr(path)), MAX_ATTRIBUTES)
    mounted.gives(0, os.setxattr, path, "user.7", b"changed")
    mounted.same(os.getxattr(path, "user.7"), b"changed", "a full list takes changes")
    mounted.gives(0, os.removexattr, path, "user.8")
    mounted.gives(0, os.setxattr, path, "user.more", b"v")


def _sized(path: Path, name: bytes | None, size: int) -> int:
    """Return the length that getxattr or listxattr gives with a buffer of that size."""
    buffer = ctypes.create_string_buffer(max(size, 1))
    if name is None:
        done = calls.LIBC.listxattr(os.fsencode(path), buffer, size)
    else:
        done = calls.LIBC.getxattr(os.fsencode(path), name, buffer, size)
    if done < 0:
        raise OSError(ctypes.get_errno(), "xattr")
    return int(done)


def test_buffers_too_small_are_told(spot: Spot) -> None:
    path = spot.file("file")
    spot.same(_sized(path, None, 0), 0, "an empty list")
    os.setxattr(path, "user.value", b"0123456789")
    for size, want in ((0, 10), (10, 10), (11, 10), (100, 10)):
        spot.same(_sized(path, b"user.value", size), want, f"a buffer of {size}")
    for size in (1, 9):
        spot.gives(errno.ERANGE, _sized, path, b"user.value", size)
    for size, want in ((0, 11), (11, 11), (12, 11)):
        spot.same(_sized(path, None, size), want, f"a list of {size}")
    for size in (1, 10):
        spot.gives(errno.ERANGE, _sized, path, None, size)


def test_user_attributes_belong_to_files_and_directories_only(spot: Spot) -> None:
    os.symlink("nowhere", spot / "link")
    os.mkfifo(spot / "fifo")
    calls.made_socket(spot / "socket")
    os.mknod(spot / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    for name in ("link", "fifo", "socket", "device"):
        path = spot / name
        spot.gives(errno.EPERM, _lset, path, "user.a", b"1")
        spot.gives(errno.ENODATA, _lget, path, "user.a")
        spot.gives(errno.EPERM, _lremove, path, "user.a")
        spot.gives(0, _lset, path, "trusted.a", b"1")
        spot.same(_lget(path, "trusted.a"), b"1", name)
        spot.same(_llist(path), ["trusted.a"], name)
        spot.gives(0, _lremove, path, "trusted.a")


def _lset(path: Path, name: str, value: bytes) -> None:
    os.setxattr(path, name, value, follow_symlinks=False)


def _lget(path: Path, name: str) -> bytes:
    return os.getxattr(path, name, follow_symlinks=False)


def _lremove(path: Path, name: str) -> None:
    os.removexattr(path, name, follow_symlinks=False)


def _llist(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def test_links_are_followed_or_not(spot: Spot) -> None:
    path = spot.file("file")
    os.symlink("file", spot / "link")
    os.setxattr(spot / "link", "user.a", b"through")
    spot.same(os.getxattr(path, "user.a"), b"through")
    spot.same(_llist(spot / "link"), [])
    os.link(path, spot / "twin")
    spot.same(os.getxattr(spot / "twin", "user.a"), b"through", "another name")
    os.rename(path, spot / "renamed")
    spot.same(os.getxattr(spot / "renamed", "user.a"), b"through", "a new name")


def test_namespaces(spot: Spot) -> None:
    path = spot.file("file")
    for name in ("unknown.a", "noprefix", "system.unknown", "User.a", "users.a", "os2.a"):
        spot.gives(errno.EOPNOTSUPP, os.setxattr, path, name, b"v")
        spot.gives(errno.EOPNOTSUPP, os.getxattr, path, name)
        spot.gives(errno.EOPNOTSUPP, os.removexattr, path, name)
    for name in ("user.", "trusted.", "security."):
        spot.gives(errno.EINVAL, os.setxattr, path, name, b"v")
        spot.gives(errno.EINVAL, os.getxattr, path, name)
    for name in ("user.a", "trusted.a", "security.a"):
        spot.gives(0, os.setxattr, path, name, name.encode())
        spot.same(os.getxattr(path, name), name.encode())
    spot.same(sorted(os.listxattr(path)), ["security.a", "trusted.a", "user.a"])


def test_trusted_attributes_are_seen_by_root_only(spot: Spot) -> None:
    path = spot.file("file", mode=0o666)
    os.setxattr(path, "trusted.a", b"secret")
    os.setxattr(path, "user.a", b"open")
    user = spot.user(1000)
    spot.same(user.run(os.listxattr, path), ["user.a"], "the list of another user")
    spot.gives(errno.ENODATA, user.run, os.getxattr, path, "trusted.a")
    spot.gives(errno.EPERM, user.run, os.setxattr, path, "trusted.a", b"x")
    spot.gives(errno.EPERM, user.run, os.removexattr, path, "trusted.a")
    spot.same(os.getxattr(path, "trusted.a"), b"secret")


def test_rights_to_user_attributes_are_those_to_content(spot: Spot) -> None:
    user = spot.user(1000)
    for mode, may_read, may_write in (
        (0o604, True, False),
        (0o602, False, True),
        (0o600, False, False),
    ):
        path = spot.file("file", mode=mode)
        os.setxattr(path, "user.a", b"1")
        spot.gives(0 if may_read else errno.EACCES, user.run, os.getxattr, path, "user.a")
        spot.gives(0 if may_write else errno.EACCES, user.run, os.setxattr, path, "user.a", b"1")
        spot.gives(0 if may_write else errno.EACCES, user.run, os.removexattr, path, "user.a")
    sticky = spot.directory("sticky")
    os.chmod(sticky, 0o1777)
    spot.gives(errno.EPERM, user.run, os.setxattr, sticky, "user.a", b"1")
    os.chmod(sticky, 0o777)
    spot.gives(0, user.run, os.setxattr, sticky, "user.a", b"1")


def test_capabilities_go_with_a_change_of_content_or_owner(spot: Spot) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    for act in (calls.wrote, calls.truncated_to_three, calls.opened_truncating, calls.chowned):
        path = spot.file("program", mode=0o755)
        os.setxattr(path, "security.capability", capability)
        spot.same(os.getxattr(path, "security.capability"), capability)
        act(path)
        spot.gives(errno.ENODATA, os.getxattr, path, "security.capability")
        os.unlink(path)


def test_attributes_are_forgotten_with_their_file(spot: Spot) -> None:
    path = spot.file("file")
    os.setxattr(path, "user.a", b"1")
    os.unlink(path)
    spot.file("file")
    spot.same(os.listxattr(path), [], "a new file of the same name")
    os.setxattr(path, "user.b", b"1")
    os.rename(spot.file("other"), path)
    spot.same(os.listxattr(path), [], "a file that replaced it")
