"""rename(2) and renameat2(2): every pair of types with every flag, and what moves where."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.system.posix import calls
from tests.system.posix.checks import number_of
from tests.system.posix.spot import Spot

KINDS = ("file", "empty", "full", "link", "fifo", "socket", "device")
FLAGS = {"plain": 0, "noreplace": calls.NOREPLACE, "exchange": calls.EXCHANGE}


def make(kind: str, path: Path) -> int:
    """Make an object; returns its inode number."""
    if kind == "file":
        path.write_bytes(b"content")
    elif kind in ("empty", "full"):
        path.mkdir()
        if kind == "full":
            (path / "inner").write_bytes(b"")
    elif kind == "link":
        os.symlink("target", path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        calls.made_socket(path)
    else:
        calls.made_device(path)
    return os.lstat(path).st_ino


def is_directory(kind: str) -> bool:
    return kind in ("empty", "full")


def expected(old: str, new: str | None, flag: str) -> int:
    """What POSIX and rename(2) say."""
    if flag == "exchange":
        return 0 if new else errno.ENOENT
    if new is None:
        return 0
    if flag == "noreplace":
        return errno.EEXIST
    if is_directory(old):
        if not is_directory(new):
            return errno.ENOTDIR
        return errno.ENOTEMPTY if new == "full" else 0
    return errno.EISDIR if is_directory(new) else 0


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("across", [False, True], ids=["within", "across"])
def test_all_pairs_of_types(spot: Spot, flag: str, across: bool) -> None:
    one = spot.directory("one")
    two = spot.directory("two") if across else one
    for old in KINDS:
        for new in (*KINDS, None):
            source, target = one / "source", two / "target"
            moved = make(old, source)
            replaced = make(new, target) if new else None
            want = expected(old, new, flag)
            got = number_of(calls.renameat2, source, target, FLAGS[flag])
            what = f"{flag} {old} onto {new}"
            spot.same(errno.errorcode.get(got), errno.errorcode.get(want), what)
            there = (_inode(source), _inode(target))
            after: tuple[int | None, int | None] = (moved, replaced)
            if want == 0:
                after = (replaced if flag == "exchange" else None, moved)
            spot.same(there, after, f"{what}: inodes of both names")
            names = {"source"} if there[0] else set()
            names |= {"target"} if there[1] else set()
            spot.same(set(os.listdir(one)) | set(os.listdir(two)), names, f"{what}: listings")
            subdirectories = sum(
                stat.S_ISDIR(e.stat(follow_symlinks=False).st_mode) for e in os.scandir(one)
            )
            spot.same(os.stat(one).st_nlink, 2 + subdirectories, f"{what}: links of the parent")
            for path in (source, target):
                _remove(path)


def _inode(path: Path) -> int | None:
    return os.lstat(path).st_ino if os.path.lexists(path) else None


def _remove(path: Path) -> None:
    if not os.path.lexists(path):
        return
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    for name in os.listdir(path):
        os.unlink(path / name)
    os.rmdir(path)


def test_operands_that_are_wrong_whatever_the_tree_holds(spot: Spot) -> None:
    directory, file = spot.directory("d"), spot.file("f")
    below = spot / "d" / "below"
    below.mkdir()
    rename = calls.renameat2
    for flags in (0, calls.NOREPLACE):
        spot.gives(errno.EINVAL, rename, directory, below / "d", flags)
        spot.gives(errno.EINVAL, rename, directory, directory / "d", flags)
        spot.gives(errno.ENOENT, rename, spot / "absent", spot / "new", flags)
        spot.gives(errno.ENOENT, rename, file, spot / "absent" / "new", flags)
        spot.gives(errno.ENOTDIR, rename, file, f"{spot / 'new'}/", flags)
        spot.gives(errno.ENOTDIR, rename, file, file / "new", flags)
        spot.gives(errno.ENOTDIR, rename, f"{file}/", spot / "new", flags)
    for name in (".", ".."):
        spot.gives(errno.EBUSY, os.rename, f"{directory}/{name}", spot / "new")
        spot.gives(errno.EBUSY, os.rename, below, f"{directory}/{name}")
    spot.gives(errno.ENOTEMPTY, os.rename, below, directory)
    spot.gives(errno.ENOTEMPTY, rename, spot.file("d/g"), directory, 0)
    spot.gives(errno.EINVAL, rename, below, directory, calls.EXCHANGE)
    spot.gives(errno.EINVAL, rename, directory, below, calls.EXCHANGE)
    spot.gives(errno.EINVAL, rename, file, spot / "new", calls.NOREPLACE | calls.EXCHANGE)
    spot.gives(errno.EINVAL, rename, file, spot / "new", calls.EXCHANGE | calls.WHITEOUT)
    spot.gives(errno.EINVAL, rename, file, spot / "new", 8)
    spot.gives(errno.ENAMETOOLONG, os.rename, file, spot / ("x" * 256))
    spot.gives(errno.ENAMETOOLONG, os.rename, spot / ("x" * 256), file)
    spot.gives(errno.EXDEV, os.rename, file, "/proc/self/elsewhere")
    spot.gives(errno.EXDEV, os.link, file, "/dev/shm/elsewhere")
    spot.same(sorted(os.listdir(spot.path)), ["d", "f"], "nothing happened")


def test_whiteouts_are_not_offered(mounted: Spot) -> None:
    file = mounted.file("f")
    mounted.gives(errno.EINVAL, calls.renameat2, file, mounted / "new", calls.WHITEOUT)


def test_names_of_one_inode(spot: Spot) -> None:
    one = spot.file("one")
    os.link(one, spot / "two")
    spot.gives(0, os.rename, one, spot / "two")
    spot.same(sorted(os.listdir(spot.path)), ["one", "two"], "both names stay")
    spot.gives(0, os.rename, one, one)
    spot.gives(errno.EEXIST, calls.renameat2, one, spot / "two", calls.NOREPLACE)
    spot.gives(0, calls.renameat2, one, spot / "two", calls.EXCHANGE)
    spot.same(os.stat(one).st_nlink, 2, "links")
    directory = spot.directory("d")
    spot.gives(0, os.rename, directory, directory)
    spot.true(directory.is_dir(), "a directory renamed to itself")


def test_a_directory_that_moves_takes_its_tree_and_its_parent(spot: Spot) -> None:
    one, two = spot.directory("one"), spot.directory("two")
    (one / "d" / "e").mkdir(parents=True)
    (one / "d" / "e" / "f").write_bytes(b"deep")
    spot.same((os.stat(one).st_nlink, os.stat(two).st_nlink), (3, 2), "links before")
    os.rename(one / "d", two / "d")
    spot.same((os.stat(one).st_nlink, os.stat(two).st_nlink), (2, 3), "links after")
    spot.same((two / "d" / "e" / "f").read_bytes(), b"deep", "what lies below")
    spot.same(os.stat(two / "d" / "..").st_ino, os.stat(two).st_ino, "dot dot")
    descriptor = os.open(two / "d", os.O_RDONLY)
    listed = {entry.name: entry.inode for entry in calls.getdents(descriptor)}
    os.close(descriptor)
    spot.same(listed[b".."], os.stat(two).st_ino, "dot dot in a listing")
    spot.same(listed[b"."], os.stat(two / "d").st_ino, "dot in a listing")
    (one / "x").mkdir()
    (one / "x" / "y").mkdir()
    calls.renameat2(one / "x", two / "d" / "e", calls.EXCHANGE)
    spot.same((two / "d" / "x").exists(), False)
    spot.true((two / "d" / "e" / "y").is_dir(), "the tree that came")
    spot.same((one / "x" / "f").read_bytes(), b"deep", "the tree that went")
    spot.same(os.stat(one / "x" / "..").st_ino, os.stat(one).st_ino, "dot dot after exchange")
    spot.gives(errno.EINVAL, os.rename, two, two / "d" / "e" / "y" / "z")


def test_an_exchange_of_a_file_and_a_directory_counts_links(spot: Spot) -> None:
    one, two = spot.directory("one"), spot.directory("two")
    (one / "d").mkdir()
    (two / "f").write_bytes(b"f")
    calls.renameat2(one / "d", two / "f", calls.EXCHANGE)
    spot.same((os.stat(one).st_nlink, os.stat(two).st_nlink), (2, 3), "links of the parents")
    spot.true((two / "f").is_dir(), "the directory went")
    spot.same((one / "d").read_bytes(), b"f", "the file came")


def test_rename_over_open_files_and_of_open_files(spot: Spot) -> None:
    old, new = spot.file("old", b"old" * 1000), spot.file("new", b"new")
    with old.open("r+b", buffering=0) as held, new.open("r+b", buffering=0) as moving:
        os.rename(new, old)
        spot.same(old.read_bytes(), b"new", "the name")
        spot.same(os.pread(held.fileno(), 6, 0), b"oldold", "what was replaced is readable")
        spot.same(os.fstat(held.fileno()).st_nlink, 0, "it has no name")
        os.pwrite(held.fileno(), b"OLD", 3000)
        spot.same(os.pread(held.fileno(), 6, 2997), b"oldOLD", "and writable")
        spot.same(os.fstat(held.fileno()).st_size, 3003, "its size")
        os.pwrite(moving.fileno(), b"NEW", 3)
        spot.same(old.read_bytes(), b"newNEW", "the descriptor follows the file")
        itself = f"/proc/self/fd/{held.fileno()}"
        spot.gives(errno.ENOENT, calls.linkat, itself, spot / "again", calls.AT_SYMLINK_FOLLOW)


def test_a_rename_replaces_at_one_moment(spot: Spot) -> None:
    """Who opens the target while it is replaced finds one of the two, never nothing."""
    target = spot.file("target", b"0" * 100)
    rival = spot.process()
    rival.start(_replace_often, spot.path, 60)
    reads = 0
    while rival.busy or reads < 20:
        content = target.read_bytes()
        spot.true(len(content) == 100 and len(set(content)) == 1, "old or new bytes")
        reads += 1
        if reads >= 200:
            break
    rival.finish()
    rival.close()


def _replace_often(directory: str, times: int) -> None:
    for number in range(times):
        path = os.path.join(directory, "temporary")
        with open(path, "wb") as file:
            file.write(b"%d" % (number % 10) * 100)
        os.rename(path, os.path.join(directory, "target"))
