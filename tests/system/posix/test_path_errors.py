"""What each call that takes a path says of a bad one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.system.posix import calls
from tests.system.posix.checks import number_of
from tests.system.posix.spot import Spot

LONG_NAME = "x" * 256
PATH_MAX = 4096


def linked_to(path: str | Path) -> None:
    os.link(_source(path), path)


def renamed_from(path: str | Path) -> None:
    os.rename(path, f"{_source(path)}-new")


def renamed_to(path: str | Path) -> None:
    os.rename(_source(path), path)


def exchanged_with(path: str | Path) -> None:
    calls.renameat2(_source(path), path, calls.EXCHANGE)


def _source(path: str | Path) -> str:
    """A file whose way is good, whatever `path` is: each test makes it in its directory."""
    text = os.fspath(path)
    top = text[: text.index("/here/")] if "/here/" in text else os.curdir
    return f"{top}/source"


class Operation(NamedTuple):
    """A call on one path."""

    call: Callable[..., object]
    follows: bool = True
    """A link at the end is followed."""
    creates: bool = False
    """It makes the last name."""


OPERATIONS = [
    Operation(os.stat),
    Operation(os.lstat, follows=False),
    Operation(calls.opened_for_reading),
    Operation(calls.opened_for_writing),
    Operation(calls.opened_for_both),
    Operation(calls.opened_truncating),
    Operation(calls.opened_directory),
    Operation(calls.created, creates=True),
    Operation(calls.created_exclusively, follows=False, creates=True),
    Operation(os.mkdir, follows=False, creates=True),
    Operation(os.mkfifo, follows=False, creates=True),
    Operation(calls.made_device, follows=False, creates=True),
    Operation(calls.made_socket, follows=False, creates=True),
    Operation(calls.made_file_node, follows=False, creates=True),
    Operation(calls.symlinked_at, follows=False, creates=True),
    Operation(linked_to, follows=False, creates=True),
    Operation(renamed_to, follows=False, creates=True),
    Operation(renamed_from, follows=False),
    Operation(exchanged_with, follows=False),
    Operation(os.unlink, follows=False),
    Operation(os.rmdir, follows=False),
    Operation(calls.chmod_600),
    Operation(calls.chowned),
    Operation(calls.lchowned, follows=False),
    Operation(calls.truncated_to_three),
    Operation(calls.timed),
    Operation(calls.touched),
    Operation(calls.timed_nofollow, follows=False),
    Operation(calls.readable),
    Operation(calls.exists),
    Operation(os.statvfs),
    Operation(os.readlink, follows=False),
    Operation(os.listdir),
    Operation(calls.got_xattr),
    Operation(calls.set_xattr),
    Operation(calls.removed_xattr),
    Operation(os.listxattr),
    Operation(calls.executed),
]


def prepared(spot: Spot) -> Path:
    """Make what the tables' paths lead to; returns the directory they start in."""
    spot.file("source")
    here = spot.directory("here")
    (here / "file").write_bytes(b"x")
    os.symlink("loop-b", here / "loop-a")
    os.symlink("loop-a", here / "loop-b")
    os.symlink("nowhere", here / "dangling")
    (here / "closed").mkdir(mode=0o700)
    (here / "closed" / "file").write_bytes(b"x")
    return here


def test_a_bad_way_is_told_by_every_call(spot: Spot) -> None:
    here = prepared(spot)
    deep = f"{here}/" + "./" * ((PATH_MAX - len(str(here))) // 2) + "end"
    for operation in OPERATIONS:
        spot.gives(errno.ENOENT, operation.call, here / "missing" / "name")
        spot.gives(errno.ENOTDIR, operation.call, here / "file" / "name")
        spot.gives(errno.ENAMETOOLONG, operation.call, here / LONG_NAME / "name")
        spot.gives(errno.ENAMETOOLONG, operation.call, here / LONG_NAME)
        spot.gives(errno.ELOOP, operation.call, here / "loop-a" / "name")
        spot.gives(errno.ENOENT, operation.call, here / "dangling" / "name")
        spot.gives(errno.ENAMETOOLONG, operation.call, deep)
        spot.gives(errno.ENOENT, operation.call, "")


def test_an_absent_name_and_a_loop_at_the_end(spot: Spot) -> None:
    here = prepared(spot)
    for operation in OPERATIONS:
        if not operation.creates:
            spot.gives(errno.ENOENT, operation.call, here / "missing")
        if operation.follows:
            spot.gives(errno.ELOOP, operation.call, here / "loop-a")
    spot.same(sorted(os.listdir(here)), ["closed", "dangling", "file", "loop-a", "loop-b"])


def test_a_closed_directory_on_the_way_refuses_every_call(spot: Spot) -> None:
    here = prepared(spot)
    other = spot.user(1000)
    for operation in OPERATIONS:
        for name in ("file", "missing"):
            spot.gives(errno.EACCES, other.run, operation.call, here / "closed" / name)
    spot.same(os.listdir(here / "closed"), ["file"])


def test_what_exists_is_not_made_again(spot: Spot) -> None:
    here = prepared(spot)
    (here / "directory").mkdir()
    os.mkfifo(here / "fifo")
    before = sorted((e.name, e.inode()) for e in os.scandir(here))
    for operation in OPERATIONS:
        if operation.creates and not operation.follows and operation.call is not renamed_to:
            for name in ("file", "directory", "fifo", "dangling", "loop-a"):
                spot.gives(errno.EEXIST, operation.call, here / name)
    spot.same(sorted((e.name, e.inode()) for e in os.scandir(here)), before)


ENDINGS = [
    "file",
    "file/",
    "file/.",
    "directory",
    "directory/",
    "directory/.",
    "directory/..",
    "full",
    "full/",
    "fifo",
    "fifo/",
    "to-file",
    "to-file/",
    "to-directory",
    "to-directory/",
    "dangling",
    "dangling/",
    "absent/",
    ".",
    "..",
]


def _furnished(spot: Spot, name: str) -> Path:
    """A directory `name/here` with one object of each kind."""
    below = spot.below(name)
    below.file("source")
    here = below.directory("here")
    (here / "file").write_bytes(b"content")
    (here / "directory").mkdir()
    (here / "full" / "inner").mkdir(parents=True)
    os.mkfifo(here / "fifo")
    os.symlink("file", here / "to-file")
    os.symlink("directory", here / "to-directory")
    os.symlink("nowhere", here / "dangling")
    return here


def _tree(top: Path) -> list[tuple[str, int, int, int]]:
    found = []
    for directory, names, files in os.walk(top):
        for name in names + files:
            path = os.path.join(directory, name)
            seen = os.lstat(path)
            size = 0 if name in names else seen.st_size
            found.append((os.path.relpath(path, top), seen.st_mode, seen.st_nlink, size))
    return sorted(found)


def test_every_call_on_every_ending_does_as_the_local_file_system(
    twins: tuple[Spot, Spot],
) -> None:
    mounted, local = twins
    for operation in OPERATIONS:
        name = operation.call.__name__
        ours, theirs = _furnished(mounted, name), _furnished(local, name)
        for ending in ENDINGS:
            got = number_of(operation.call, f"{ours}/{ending}")
            want = number_of(operation.call, f"{theirs}/{ending}")
            mounted.same(errno.errorcode.get(got), errno.errorcode.get(want), f"{name} {ending}")
        mounted.same(_tree(ours.parent), _tree(theirs.parent), f"the tree after {name}")
