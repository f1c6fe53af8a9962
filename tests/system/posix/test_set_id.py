"""Set-user-id and set-group-id bits: who may set them, what takes them away, what inherits them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pytest

from tests.system.posix import calls
from tests.system.posix.spot import Spot, permissions

USER, OTHER, GROUP, FOREIGN_GROUP = 1000, 1001, 2000, 2001

CLEARING: list[tuple[str, Callable[..., object], tuple[object, ...]]] = [
    ("write", calls.wrote, ()),
    ("truncate", calls.truncated_to_three, ()),
    ("open with O_TRUNC", calls.opened_truncating, ()),
]
KEEPING: list[tuple[str, Callable[..., object], tuple[object, ...]]] = [
    ("read", calls.read_bytes, ()),
    ("open for writing", calls.opened_for_writing, ()),
    ("touch", calls.touched, ()),
    ("setxattr", calls.set_xattr, ()),
    ("write of nothing", calls.wrote, (b"",)),
]

MODES = [
    # before, after a change of content by somebody without privilege
    (0o4777, 0o0777),
    (0o2777, 0o0777),
    (0o6777, 0o0777),
    (0o4666, 0o0666),
    (0o2767, 0o2767),  # no right of the group to execute: not a set-group-id bit
    (0o6767, 0o2767),
    (0o1777, 0o1777),
    (0o0777, 0o0777),
]


@pytest.mark.parametrize(("what", "call", "arguments"), CLEARING)
def test_a_change_of_content_takes_the_bits(
    spot: Spot, what: str, call: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    path = spot.file("file", mode=0o666)
    owner, other = spot.user(USER, GROUP), spot.user(OTHER, FOREIGN_GROUP)
    for before, after in MODES:
        for user in (owner, other):
            path.write_bytes(b"content")
            os.chown(path, USER, GROUP)
            os.chmod(path, before)
            user.run(call, path, *arguments)
            # Who is outside the group takes its bit also where the group may not execute.
            want = after if user is owner else after & ~0o2000
            spot.same(oct(permissions(path)), oct(want), f"{what} by {user}, {before:o}")
        path.write_bytes(b"content")
        os.chmod(path, before)
        call(path, *arguments)
        spot.same(oct(permissions(path)), oct(before), f"{what} by root, {before:o}")


@pytest.mark.parametrize(("what", "call", "arguments"), KEEPING)
def test_other_operations_keep_the_bits(
    spot: Spot, what: str, call: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    path = spot.file("file")
    os.chown(path, USER, GROUP)
    for mode in (0o4777, 0o2777, 0o6777):
        os.chmod(path, mode)
        spot.user(USER, GROUP).run(call, path, *arguments)
        spot.same(oct(permissions(path)), oct(mode), f"{what}, {mode:o}")


def test_a_mapped_write_takes_no_bits_but_content_arrives(spot: Spot) -> None:
    path = spot.file("file", b"content", 0o4777)
    os.chmod(path, 0o4777)
    descriptor = os.open(path, os.O_RDWR)
    os.pwrite(descriptor, b"C", 0)
    os.close(descriptor)
    spot.same(path.read_bytes(), b"Content")
    spot.same(oct(permissions(path)), oct(0o4777), "root keeps the bits")


def test_chown_takes_the_bits_of_programs(spot: Spot) -> None:
    for number, (before, after) in enumerate(
        [
            (0o6755, 0o0755),
            (0o4755, 0o0755),
            (0o2755, 0o0755),
            (0o2745, 0o2745),
            (0o6644, 0o2644),
            (0o1755, 0o1755),
        ]
    ):
        path = spot.file(f"file{number}")
        os.chown(path, USER, GROUP)
        os.chmod(path, before)
        spot.user(USER, GROUP).run(os.chown, path, USER, GROUP)
        spot.same(oct(permissions(path)), oct(after), f"chown by the owner, {before:o}")
        os.chmod(path, before)
        os.chown(path, OTHER, FOREIGN_GROUP)
        spot.same(oct(permissions(path)), oct(after), f"chown by root, {before:o}")
    for name, make in (("fifo", os.mkfifo), ("socket", calls.made_socket)):
        make(spot / name)
        os.chmod(spot / name, 0o6755)
        os.chown(spot / name, USER, GROUP)
        spot.same(oct(permissions(spot / name)), oct(0o755), f"a {name} loses them as well")
    directory = spot.directory("directory")
    os.chmod(directory, 0o6755)
    os.chown(directory, USER, GROUP)
    spot.same(oct(permissions(directory)), oct(0o6755), "a directory keeps them")


def test_set_group_id_needs_membership(spot: Spot) -> None:
    member = spot.user(USER, GROUP)
    stranger = spot.user(USER, FOREIGN_GROUP)
    for mode in (0o2755, 0o2644, 0o6755):
        path = spot.file("file")
        os.chown(path, USER, GROUP)
        member.run(os.chmod, path, mode)
        spot.same(oct(permissions(path)), oct(mode), "by a member")
        os.chmod(path, 0o644)
        stranger.run(os.chmod, path, mode)
        spot.same(oct(permissions(path)), oct(mode & ~0o2000), "by an owner outside the group")
    directory = spot.directory("directory")
    os.chown(directory, USER, GROUP)
    stranger.run(os.chmod, directory, 0o2755)
    spot.same(oct(permissions(directory)), oct(0o755), "the same of a directory")


def test_only_content_of_files_has_sticky_bits_for_everybody(spot: Spot) -> None:
    path = spot.file("file")
    os.chown(path, USER, USER)
    spot.user(USER).run(os.chmod, path, 0o1644)
    spot.same(oct(permissions(path)), oct(0o1644))


MAKERS: list[tuple[str, Callable[..., object]]] = [
    ("file", calls.created),
    ("directory", os.mkdir),
    ("fifo", os.mkfifo),
    ("socket", calls.made_socket),
    ("node", calls.made_file_node),
    ("link", calls.symlinked_at),
]


def test_a_set_group_id_directory_hands_down_its_group(spot: Spot) -> None:
    top = spot.directory("top")
    os.chown(top, 0, GROUP)
    os.chmod(top, 0o2777)
    for name, make in MAKERS:
        spot.user(USER, FOREIGN_GROUP).run(make, top / name)
        found = os.lstat(top / name)
        spot.same((found.st_uid, found.st_gid), (USER, GROUP), name)
        spot.same(bool(found.st_mode & stat.S_ISGID), name == "directory", f"the bit of the {name}")
    os.mkdir(top / "directory" / "below")
    below = os.stat(top / "directory" / "below")
    spot.same((below.st_gid, bool(below.st_mode & stat.S_ISGID)), (GROUP, True), "below it")
    plain = spot.directory("plain", 0o777)
    os.rename(top / "file", plain / "file")
    spot.same(os.stat(plain / "file").st_gid, GROUP, "a rename changes no group")


def test_made_in_a_foreign_group_a_program_gets_no_set_group_id(spot: Spot) -> None:
    top = spot.directory("top")
    os.chown(top, 0, GROUP)
    os.chmod(top, 0o2777)
    for user, want in ((spot.user(USER, FOREIGN_GROUP), 0o0755), (spot.user(USER, GROUP), 0o2755)):
        user.run(calls.opened, top / "program", os.O_CREAT | os.O_WRONLY, 0o2755)
        spot.same(oct(permissions(top / "program")), oct(want), f"by {user}")
        os.unlink(top / "program")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077, 0o777, 0o111, 0o400])
def test_the_umask_applies_to_what_is_made(spot: Spot, umask: int) -> None:
    os.umask(umask)
    os.close(os.open(spot / "file", os.O_CREAT | os.O_WRONLY, 0o7777))
    os.mkdir(spot / "directory", 0o1777)
    os.mkfifo(spot / "fifo", 0o666)
    os.mknod(spot / "node", stat.S_IFREG | 0o666)
    os.mknod(spot / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.symlink("target", spot / "link")
    os.umask(0)
    for name, asked in (
        ("file", 0o7777),
        ("directory", 0o1777),
        ("fifo", 0o666),
        ("node", 0o666),
        ("device", 0o666),
    ):
        spot.same(oct(permissions(spot / name)), oct(asked & ~umask), f"{name}, {umask:o}")
    spot.same(oct(permissions(spot / "link")), oct(0o777), "a link has no umask")


def test_every_mode_is_kept(spot: Spot) -> None:
    path, directory = spot.file("file"), spot.directory("directory")
    for bit in range(12):
        for target in (path, directory):
            os.chmod(target, 1 << bit)
            spot.same(oct(permissions(target)), oct(1 << bit), target.name)
            os.chmod(target, 0o7777 & ~(1 << bit))
            spot.same(oct(permissions(target)), oct(0o7777 & ~(1 << bit)), target.name)
