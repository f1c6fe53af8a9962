"""Who may do what: mode bits by class of user, directories, sticky bits, owners' rights, access."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.system.posix import calls
from tests.system.posix.actor import Actor
from tests.system.posix.checks import number_of, numbers_of
from tests.system.posix.spot import Spot, permissions

OWNER, MEMBER, SECOND_GROUP, STRANGER = 1000, 1001, 1002, 1003
GROUP, OTHER_GROUP = 2000, 2001


def users(spot: Spot) -> dict[str, tuple[Actor, int]]:
    """Return, by name, a user and how far to shift the mode bits that hold for him."""
    return {
        "owner": (spot.user(OWNER, OTHER_GROUP), 6),
        "owner in the group": (spot.user(OWNER, GROUP), 6),
        "member": (spot.user(MEMBER, GROUP), 3),
        "member by second group": (spot.user(SECOND_GROUP, OTHER_GROUP, GROUP), 3),
        "stranger": (spot.user(STRANGER, OTHER_GROUP), 0),
    }


FILE_CALLS = [
    (calls.opened_for_reading, 4),
    (calls.opened_for_writing, 2),
    (calls.opened_for_both, 6),
    (calls.opened_truncating, 2),
    (calls.readable, 4),
    (calls.writable, 2),
    (calls.executable, 1),
    (calls.touched, 2),
    (calls.truncated_to_three, 2),
    (calls.got_xattr, 4),
    (calls.set_xattr, 2),
]
"""Calls on a file and the bits that they need."""


@pytest.mark.parametrize("bits", range(8))
def test_each_class_of_users_has_its_own_bits_of_a_file(spot: Spot, bits: int) -> None:
    path = spot.file("file")
    os.setxattr(path, "user.test", b"value")
    os.chown(path, OWNER, GROUP)
    for name, (user, shift) in users(spot).items():
        mode = _mode(bits, shift)
        os.chmod(path, mode)
        answers = user.run(numbers_of, [call for call, _ in FILE_CALLS], path)
        for (call, needed), got in zip(FILE_CALLS, answers, strict=True):
            free = call is calls.touched and shift == 6
            want = 0 if bits & needed == needed or free else errno.EACCES
            spot.same(got, want, f"{call.__name__} by the {name} with mode {mode:03o}")


def _mode(bits: int, shift: int) -> int:
    """Return the mode that gives one class `bits`, and the other classes the opposite."""
    others = 7 & ~bits
    return (others << 6 | others << 3 | others) & ~(7 << shift) | bits << shift


def test_a_program_runs_for_whom_it_may(spot: Spot) -> None:
    path = spot.file("program", b"#!/bin/true\n")
    os.chown(path, OWNER, GROUP)
    for name, (user, shift) in users(spot).items():
        for bits, want in ((5, 0), (4, errno.EACCES)):
            os.chmod(path, _mode(bits, shift))
            spot.same(number_of(user.run, calls.executed, path), want, f"{name} with {bits}")


def made_in(directory: str) -> None:
    calls.created_exclusively(f"{directory}/new")


def made_directory_in(directory: str) -> None:
    os.mkdir(f"{directory}/new-directory")


def looked_up_in(directory: str) -> None:
    os.stat(f"{directory}/inner")


def removed_from(directory: str) -> None:
    os.unlink(f"{directory}/inner")


def renamed_within(directory: str) -> None:
    os.rename(f"{directory}/inner", f"{directory}/other")
    os.rename(f"{directory}/other", f"{directory}/inner")


def linked_within(directory: str) -> None:
    os.link(f"{directory}/inner", f"{directory}/twin")


DIRECTORY_CALLS = [
    (os.listdir, 4),
    (calls.entered, 1),
    (looked_up_in, 1),
    (made_in, 3),
    (made_directory_in, 3),
    (renamed_within, 3),
    (linked_within, 3),
    (removed_from, 3),
]


@pytest.mark.parametrize("bits", range(8))
def test_each_class_of_users_has_its_own_bits_of_a_directory(spot: Spot, bits: int) -> None:
    for name, (user, shift) in users(spot).items():
        mode = _mode(bits, shift)
        path = spot.directory(name)
        inner = path / "inner"
        inner.write_bytes(b"")
        os.chown(inner, user.uid, GROUP)
        os.chown(path, OWNER, GROUP)
        os.chmod(path, mode)
        answers = user.run(numbers_of, [call for call, _ in DIRECTORY_CALLS], path)
        for (call, needed), got in zip(DIRECTORY_CALLS, answers, strict=True):
            want = 0 if bits & needed == needed else errno.EACCES
            spot.same(got, want, f"{call.__name__} by the {name} with mode {mode:03o}")


STICKY = [
    # directory's owner, object's owner, who removes, whether the sticky bit lets him
    (0, 0, OWNER, False),
    (0, OWNER, OWNER, True),
    (OWNER, 0, OWNER, True),
    (OWNER, MEMBER, OWNER, True),
    (OWNER, MEMBER, MEMBER, True),
    (OWNER, MEMBER, STRANGER, False),
    (0, MEMBER, STRANGER, False),
    (OWNER, OWNER, MEMBER, False),
]


@pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo"])
def test_the_sticky_bit_keeps_what_belongs_to_others(spot: Spot, kind: str) -> None:
    for row, (top_owner, owner, who, allowed) in enumerate(STICKY):
        top = spot.directory(f"sticky{row}")
        os.chown(top, top_owner, 0)
        os.chmod(top, 0o1777)
        user = spot.user(who)
        elsewhere = spot.directory(f"elsewhere{row}", 0o777)
        want = 0 if allowed else errno.EPERM
        for number in range(3):
            _make(kind, top / f"object{number}", owner)
        remove = os.rmdir if kind == "directory" else os.unlink
        spot.gives(want, user.run, remove, top / "object0")
        spot.gives(want, user.run, os.rename, top / "object1", top / "renamed")
        moved = errno.EACCES if allowed and kind == "directory" and owner != who else want
        spot.gives(moved, user.run, os.rename, top / "object2", elsewhere / "moved")
        os.chmod(top, 0o777)
        _make(kind, top / "plain", owner)
        spot.gives(0, user.run, remove, top / "plain")


def test_the_sticky_bit_keeps_what_a_rename_would_replace(spot: Spot) -> None:
    top = spot.directory("sticky")
    os.chmod(top, 0o1777)
    user = spot.user(OWNER)
    _make("file", top / "mine", OWNER)
    _make("file", top / "roots", 0)
    spot.gives(errno.EPERM, user.run, os.rename, top / "mine", top / "roots")
    spot.gives(errno.EPERM, user.run, calls.renameat2, top / "mine", top / "roots", calls.EXCHANGE)
    os.chown(top / "roots", OWNER, 0)
    spot.gives(0, user.run, os.rename, top / "mine", top / "roots")


def _make(kind: str, path: Path, owner: int) -> None:
    if kind == "file":
        path.write_bytes(b"")
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        os.symlink("target", path)
    else:
        os.mkfifo(path)
    os.lchown(path, owner, owner)


def test_only_the_owner_changes_mode_owner_and_times(spot: Spot) -> None:
    path = spot.file("file", mode=0o666)
    os.chown(path, OWNER, GROUP)
    owner, member = spot.user(OWNER, GROUP, OTHER_GROUP), spot.user(MEMBER, GROUP)
    spot.gives(0, owner.run, os.chmod, path, 0o664)
    spot.gives(errno.EPERM, member.run, os.chmod, path, 0o600)
    spot.gives(errno.EPERM, member.run, os.chown, path, MEMBER, -1)
    spot.gives(errno.EPERM, owner.run, os.chown, path, MEMBER, -1)
    spot.gives(errno.EPERM, owner.run, os.chown, path, 0, -1)
    spot.gives(0, owner.run, os.chown, path, OWNER, -1)
    spot.gives(0, owner.run, os.chown, path, -1, OTHER_GROUP)
    spot.gives(0, owner.run, os.chown, path, -1, GROUP)
    spot.gives(errno.EPERM, owner.run, os.chown, path, -1, 2999)
    spot.gives(errno.EPERM, member.run, os.chown, path, -1, GROUP)
    spot.gives(0, owner.run, calls.timed, path)
    spot.gives(errno.EPERM, member.run, calls.timed, path)
    spot.gives(0, member.run, calls.touched, path)
    spot.gives(errno.EPERM, member.run, calls.utimensat, path, (0, calls.UTIME_NOW), (1, 0))
    os.chmod(path, 0o644)
    spot.gives(errno.EACCES, member.run, calls.touched, path)
    spot.gives(0, owner.run, calls.touched, path)
    spot.gives(errno.EPERM, member.run, calls.timed, path)
    found = os.stat(path)
    spot.same((found.st_uid, found.st_gid, permissions(path)), (OWNER, GROUP, 0o644), "the end")


def test_what_only_root_may(spot: Spot) -> None:
    top = spot.directory("top", 0o777)
    user = spot.user(OWNER)
    spot.gives(errno.EPERM, user.run, os.mknod, top / "c", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    spot.gives(errno.EPERM, user.run, os.mknod, top / "b", stat.S_IFBLK | 0o600, os.makedev(1, 3))
    spot.gives(0, user.run, os.mkfifo, top / "fifo")
    spot.gives(0, user.run, calls.made_socket, top / "socket")
    spot.gives(0, user.run, calls.made_file_node, top / "file")
    spot.gives(errno.EPERM, user.run, os.setxattr, top / "file", "trusted.t", b"v")
    spot.gives(errno.EPERM, user.run, os.setxattr, top / "file", "security.t", b"v")
    spot.gives(errno.EPERM, user.run, os.link, top, top / "linked-directory")
    spot.same(sorted(os.listdir(top)), ["fifo", "file", "socket"], "what was made")


def test_what_is_made_belongs_to_its_maker(spot: Spot) -> None:
    top = spot.directory("top", 0o777)
    user = spot.user(OWNER, GROUP, OTHER_GROUP)
    user.run(calls.created, top / "file")
    user.run(os.mkdir, top / "directory")
    user.run(os.symlink, "target", top / "link")
    user.run(os.mkfifo, top / "fifo")
    user.run(calls.made_socket, top / "socket")
    for name in sorted(os.listdir(top)):
        found = os.lstat(top / name)
        spot.same((found.st_uid, found.st_gid), (OWNER, GROUP), name)


def test_root_needs_no_bits_but_one_to_execute(spot: Spot) -> None:
    path = spot.file("file", b"#!/bin/true\n", 0o000)
    spot.gives(0, calls.opened_for_both, path)
    spot.gives(0, calls.writable, path)
    spot.gives(errno.EACCES, calls.executable, path)
    spot.gives(errno.EACCES, calls.executed, path)
    os.chmod(path, 0o001)
    spot.gives(0, calls.executable, path)
    spot.gives(0, calls.executed, path)
    closed = spot.directory("closed", 0o000)
    spot.gives(0, os.listdir, closed)
    spot.gives(0, made_in, str(closed))


def test_moving_a_directory_rewrites_its_dot_dot(spot: Spot) -> None:
    """A directory that changes its parent must itself be writable to who moves it."""
    one, two = spot.directory("one", 0o777), spot.directory("two", 0o777)
    user = spot.user(OWNER)
    (one / "roots").mkdir(mode=0o755)
    spot.gives(0, user.run, os.rename, one / "roots", one / "renamed")
    spot.gives(errno.EACCES, user.run, os.rename, one / "renamed", two / "moved")
    os.chmod(one / "renamed", 0o777)
    spot.gives(0, user.run, os.rename, one / "renamed", two / "moved")


def test_rights_are_checked_at_open_and_not_after(spot: Spot) -> None:
    path = spot.file("file", b"content", 0o666)
    user = spot.user(OWNER)
    descriptor = user.run(os.open, path, os.O_RDWR)
    os.chmod(path, 0)
    spot.gives(0, user.run, os.pread, descriptor, 3, 0)
    spot.gives(0, user.run, os.pwrite, descriptor, b"more", 0)
    spot.gives(0, user.run, os.ftruncate, descriptor, 2)
    spot.gives(errno.EACCES, user.run, calls.opened_for_reading, path)
    user.run(os.close, descriptor)
    spot.same(path.read_bytes(), b"mo", "what was written")


def test_access_asks_for_the_real_user(spot: Spot) -> None:
    path = spot.file("file", mode=0o640)
    os.chown(path, OWNER, GROUP)
    for uid, gid, mode, want in (
        (OWNER, 1, os.R_OK | os.W_OK, 0),
        (OWNER, 1, os.X_OK, errno.EACCES),
        (MEMBER, GROUP, os.R_OK, 0),
        (MEMBER, GROUP, os.W_OK, errno.EACCES),
        (STRANGER, 1, os.F_OK, 0),
        (STRANGER, 1, os.R_OK, errno.EACCES),
    ):
        user = spot.user(uid, gid)
        spot.gives(want, user.run, calls.faccessat2, path, mode)
        spot.gives(want, user.run, calls.faccessat2, path, mode, calls.AT_EACCESS)
    spot.gives(errno.EINVAL, calls.faccessat2, path, 8)
    spot.gives(errno.EINVAL, calls.faccessat2, path, 0, 0x8000)
    os.symlink("nowhere", spot / "dangling")
    spot.gives(errno.ENOENT, calls.faccessat2, spot / "dangling", os.F_OK)
    spot.gives(0, calls.faccessat2, spot / "dangling", os.F_OK, calls.AT_SYMLINK_NOFOLLOW)
