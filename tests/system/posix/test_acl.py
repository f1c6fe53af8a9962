"""POSIX access control lists: what they grant, the mask, chmod, and inheritance."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.system.posix import calls
from tests.system.posix.checks import number_of, numbers_of
from tests.system.posix.spot import Spot, permissions

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NOBODY = 0xFFFFFFFF
NAMED, SECOND, MEMBER, STRANGER = 1000, 1001, 1002, 1003
TEAM = 2000

Lines = list[tuple[int, int, int]]


def acl(text: str) -> bytes:
    """Encode `u::rwx,u:1000:r-x,g::r,m::rw,o::-`."""
    lines: Lines = []
    for line in text.split(","):
        kind, who, bits = line.split(":")
        perm = sum({"r": 4, "w": 2, "x": 1, "-": 0}[bit] for bit in bits)
        tag = {"u": USER_OBJ, "g": GROUP_OBJ, "m": MASK, "o": OTHER}[kind]
        tag = {USER_OBJ: USER, GROUP_OBJ: GROUP}[tag] if who else tag
        lines.append((tag, perm, int(who) if who else NOBODY))
    return packed(lines)


def packed(lines: Iterable[tuple[int, int, int]], version: int = 2) -> bytes:
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *line) for line in lines)


def told(path: Path, name: str = ACCESS) -> str | None:
    """Return a list in the form that `acl` takes, or None."""
    try:
        value = os.getxattr(path, name)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        return None
    shown = []
    for tag, perm, who in struct.iter_unpack("<HHI", value[4:]):
        kind = {1: "u", 2: "u", 4: "g", 8: "g", 16: "m", 32: "o"}[tag]
        bits = "".join(bit for bit, value in (("r", 4), ("w", 2), ("x", 1)) if perm & value)
        shown.append(f"{kind}:{who if tag in (USER, GROUP) else ''}:{bits or '-'}")
    return ",".join(shown)


GRANTS = [
    # list, and what NAMED, SECOND, MEMBER of the team, STRANGER may: bits of rwx
    ("u::rw,u:1000:r,g::-,m::r,o::-", (4, 0, 0, 0)),
    ("u::rw,u:1000:rw,g::-,m::r,o::-", (4, 0, 0, 0)),
    ("u::rw,u:1000:rw,g::-,m::rw,o::-", (6, 0, 0, 0)),
    ("u::rw,u:1000:-,g::rw,m::rw,o::rw", (0, 6, 6, 6)),
    ("u::rw,u:1000:rw,u:1001:r,g::-,m::rwx,o::w", (6, 4, 2, 2)),
    ("u::rw,g::-,g:2000:rw,m::rw,o::-", (0, 0, 6, 0)),
    ("u::rw,g::-,g:2000:-,m::rwx,o::rw", (6, 6, 0, 6)),
    ("u::rw,g::-,g:2000:rw,m::-,o::r", (4, 4, 4, 4)),  # Linux asks no list if the mask is empty
    ("u::rw,u:1002:r,g::-,g:2000:rw,m::rw,o::-", (0, 0, 4, 0)),
    ("u::-,u:1000:rwx,g::r,m::rwx,o::r", (7, 4, 4, 4)),
]


@pytest.mark.parametrize(("text", "rights"), GRANTS)
def test_what_a_list_grants(spot: Spot, text: str, rights: tuple[int, ...]) -> None:
    path = spot.file("file", b"#!/bin/true\n")
    os.setxattr(path, ACCESS, acl(text))
    spot.same(told(path), text, "the list as it was set")
    users = {
        "named": spot.user(NAMED),
        "second": spot.user(SECOND),
        "member": spot.user(MEMBER, 3000, TEAM),
        "stranger": spot.user(STRANGER),
    }
    asked = [calls.opened_for_reading, calls.opened_for_writing, calls.executable]
    for (name, user), right in zip(users.items(), rights, strict=True):
        answers = user.run(numbers_of, asked, path)
        for bit, call, got in zip((4, 2, 1), asked, answers, strict=True):
            want = 0 if right & bit else errno.EACCES
            spot.same(got, want, f"{text}: {call.__name__} by the {name} user")
    mask = next(line[3:] for line in text.split(",") if line.startswith("m::"))
    group = sum({"r": 4, "w": 2, "x": 1, "-": 0}[bit] for bit in mask)
    spot.same(permissions(path) >> 3 & 7, group, "the mode shows the mask as the group's bits")


def test_chmod_changes_the_mask_and_not_the_group(spot: Spot) -> None:
    path = spot.file("file")
    os.setxattr(path, ACCESS, acl("u::rw,u:1000:rw,g::r,m::rw,o::-"))
    spot.same(oct(permissions(path)), oct(0o660))
    os.chmod(path, 0o741)
    spot.same(told(path), "u::rwx,u:1000:rw,g::r,m::r,o::x")
    spot.gives(errno.EACCES, spot.user(NAMED).run, calls.opened_for_writing, path)
    os.chmod(path, 0o600)
    spot.same(told(path), "u::rw,u:1000:rw,g::r,m::-,o::-")
    spot.gives(errno.EACCES, spot.user(NAMED).run, calls.opened_for_reading, path)
    os.chmod(path, 0o660)
    spot.gives(0, spot.user(NAMED).run, calls.opened_for_both, path)


def test_a_list_that_says_what_a_mode_says_becomes_a_mode(spot: Spot) -> None:
    path = spot.file("file", mode=0o600)
    os.setxattr(path, ACCESS, acl("u::rwx,g::rx,o::x"))
    spot.same(oct(permissions(path)), oct(0o751))
    spot.same(told(path), None)
    os.setxattr(path, ACCESS, acl("u::rw,u:1000:r,g::r,m::rw,o::-"))
    spot.same(oct(permissions(path)), oct(0o660))
    os.setxattr(path, ACCESS, acl("u::r,g::r,o::r"))
    spot.same((oct(permissions(path)), told(path)), (oct(0o444), None), "it replaces a long one")
    os.setxattr(path, ACCESS, acl("u::rw,u:1000:rwx,g::r,m::rwx,o::-"))
    os.removexattr(path, ACCESS)
    spot.same(told(path), None, "removed")
    spot.gives(errno.EACCES, spot.user(NAMED).run, calls.opened_for_writing, path)


BAD = [
    ("no others", packed([(USER_OBJ, 6, NOBODY), (GROUP_OBJ, 4, NOBODY)])),
    ("two owners", acl("u::rw,u::r,g::r,o::r")),
    ("a name without a mask", acl("u::rw,u:1000:r,g::r,o::r")),
    ("two masks", acl("u::rw,g::r,m::r,m::r,o::r")),
    ("a bit too many", packed([(1, 8, NOBODY), (4, 4, NOBODY), (32, 4, NOBODY)])),
    ("an unknown tag", packed([(1, 6, NOBODY), (4, 4, NOBODY), (64, 4, NOBODY)])),
    ("cut short", acl("u::rw,g::r,o::r")[:-1]),
    ("wrong order", acl("o::r,u::rw,g::r")),
]


@pytest.mark.parametrize(("what", "value"), BAD, ids=[what for what, _ in BAD])
def test_lists_that_contradict_themselves_are_refused(spot: Spot, what: str, value: bytes) -> None:
    path, directory = spot.file("file"), spot.directory("d")
    spot.gives(errno.EINVAL, os.setxattr, path, ACCESS, value)
    spot.gives(errno.EINVAL, os.setxattr, directory, DEFAULT, value)
    spot.same((told(path), told(directory, DEFAULT)), (None, None), "nothing was set")


def test_a_version_from_elsewhere_is_not_supported(spot: Spot) -> None:
    value = packed([(1, 6, NOBODY), (4, 4, NOBODY), (32, 4, NOBODY)], version=3)
    spot.gives(errno.EOPNOTSUPP, os.setxattr, spot.file("file"), ACCESS, value)


def test_who_may_set_a_list_and_on_what(spot: Spot) -> None:
    path = spot.file("file")
    value = acl("u::rw,u:1000:rw,g::r,m::rw,o::-")
    spot.gives(errno.EPERM, spot.user(NAMED).run, os.setxattr, path, ACCESS, value)
    os.chown(path, NAMED, NAMED)
    spot.gives(0, spot.user(NAMED).run, os.setxattr, path, ACCESS, value)
    spot.gives(errno.EPERM, spot.user(SECOND).run, os.removexattr, path, ACCESS)
    spot.gives(errno.EACCES, os.setxattr, path, DEFAULT, value)
    os.symlink("file", spot / "link")
    spot.gives(
        errno.EOPNOTSUPP,
        lambda: os.setxattr(spot / "link", ACCESS, value, follow_symlinks=False),
    )
    os.mkfifo(spot / "fifo")
    spot.gives(0, os.setxattr, spot / "fifo", ACCESS, value)
    spot.same(told(spot / "fifo"), "u::rw,u:1000:rw,g::r,m::rw,o::-")


def test_setting_a_list_outside_the_group_takes_set_group_id(spot: Spot) -> None:
    value = acl("u::rwx,u:1001:rx,g::rx,m::rx,o::rx")
    for gid, want in ((TEAM, 0o2755), (3000, 0o0755)):
        path = spot.file(f"file{gid}")
        os.chown(path, NAMED, TEAM)
        os.chmod(path, 0o2755)
        spot.user(NAMED, gid).run(os.setxattr, path, ACCESS, value)
        spot.same(oct(permissions(path)), oct(want), f"by a process of group {gid}")
    path = spot.file("second")
    os.chown(path, NAMED, TEAM)
    os.chmod(path, 0o2755)
    spot.user(NAMED, 3000, TEAM).run(os.setxattr, path, ACCESS, value)
    spot.same(oct(permissions(path)), oct(0o2755), "membership by a further group")


INHERITED = [
    # default list, mode asked for, umask, mode and list of the file, list of the directory
    ("u::rwx,g::rx,o::-", 0o666, 0o077, 0o640, None),
    ("u::rwx,g::rwx,o::rwx", 0o666, 0o077, 0o666, None),
    (
        "u::rwx,u:1000:rwx,g::rx,m::rwx,o::-",
        0o666,
        0o077,
        0o660,
        "u::rw,u:1000:rwx,g::rx,m::rw,o::-",
    ),
    (
        "u::rwx,u:1000:rwx,g::rx,m::rwx,o::rx",
        0o640,
        0o000,
        0o640,
        "u::rw,u:1000:rwx,g::rx,m::r,o::-",
    ),
    (
        "u::r,u:1000:rwx,g::rwx,m::rwx,o::rwx",
        0o777,
        0o777,
        0o477,
        "u::r,u:1000:rwx,g::rwx,m::rwx,o::rwx",
    ),
    ("u::rwx,g::rx,g:2000:rwx,m::rx,o::x", 0o600, 0o022, 0o600, "u::rw,g::rx,g:2000:rwx,m::-,o::-"),
]


@pytest.mark.parametrize(("default", "asked", "umask", "mode", "text"), INHERITED)
def test_a_default_list_takes_the_umasks_place(
    spot: Spot, default: str, asked: int, umask: int, mode: int, text: str | None
) -> None:
    top = spot.directory("top")
    os.setxattr(top, DEFAULT, acl(default))
    spot.same(told(top, DEFAULT), default)
    spot.same(oct(permissions(top)), oct(0o755), "a default list is not an access list")
    os.umask(umask)
    os.close(os.open(top / "file", os.O_CREAT | os.O_WRONLY, asked))
    os.mkfifo(top / "fifo", asked)
    os.mkdir(top / "directory", asked)
    os.symlink("target", top / "link")
    os.umask(0o022)
    for name in ("file", "fifo", "directory"):
        path = top / name
        spot.same(oct(permissions(path)), oct(mode), f"mode of the {name}")
        spot.same(told(path), text, f"list of the {name}")
    spot.same(told(top / "directory", DEFAULT), default, "a directory hands it on")
    os.mkdir(top / "directory" / "below")
    spot.same(told(top / "directory" / "below", DEFAULT), default, "and on")
    spot.same(oct(permissions(top / "link")), oct(0o777), "links have no list")
    os.removexattr(top, DEFAULT)
    os.close(os.open(top / "plain", os.O_CREAT | os.O_WRONLY, 0o666))
    spot.same((oct(permissions(top / "plain")), told(top / "plain")), (oct(0o644), None))


def test_an_inherited_list_grants(spot: Spot) -> None:
    top = spot.directory("top", 0o755)
    os.setxattr(top, DEFAULT, acl("u::rwx,u:1000:rwx,g::-,m::rwx,o::-"))
    path = top / "file"
    path.write_bytes(b"content")
    spot.same(number_of(spot.user(NAMED).run, calls.opened_for_both, path), 0)
    spot.same(number_of(spot.user(SECOND).run, calls.opened_for_both, path), errno.EACCES)
    os.rename(path, spot / "moved")
    spot.same(number_of(spot.user(NAMED).run, calls.opened_for_both, spot / "moved"), 0)


def test_an_inherited_list_and_a_set_group_id_directory(spot: Spot) -> None:
    top = spot.directory("top")
    os.chown(top, 0, TEAM)
    os.chmod(top, 0o2755)
    os.setxattr(top, DEFAULT, acl("u::rwx,u:1000:rwx,g::rwx,m::rwx,o::-"))
    spot.same(oct(permissions(top)), oct(0o2755))
    (top / "d").mkdir()
    found = os.stat(top / "d")
    spot.same((found.st_gid, oct(permissions(top / "d"))), (TEAM, oct(0o2770)))
