"""Which times each operation moves, of the object, its parents and neighbours, and which not."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.system.posix import calls
from tests.system.posix.checks import number_of
from tests.system.posix.spot import Spot

OLD_ATIME_NS, OLD_MTIME_NS = 1_111_111_111_111_111_111, 1_222_222_222_222_222_223
CLOCK_SLACK_NS = 20_000_000
"""A local file system may take its times from a clock that ticks."""


class Row(NamedTuple):
    """An operation, and for each object which times it moves: `a`, `m`, `c`; in capitals: may."""

    name: str
    act: Callable[[Path], object]
    moved: dict[str, str]
    fails: int = 0
    only_mount: bool = False


def _read(path: Path) -> None:
    calls.forget_pages(path)
    calls.read_bytes(path)


def _mapped_write(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0:1] = b"M"
        mapped.flush()


def _copied(source: Path, target: Path) -> None:
    with source.open("rb") as one, target.open("r+b") as two:
        os.copy_file_range(one.fileno(), two.fileno(), 5)


def _appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def _at_descriptor(path: Path, flags: int, call: Callable[[int], object]) -> None:
    descriptor = os.open(path, flags)
    try:
        call(descriptor)
    finally:
        os.close(descriptor)


def _listed(path: Path) -> None:
    _at_descriptor(path, os.O_RDONLY, calls.getdents)


R, W, RW = os.O_RDONLY, os.O_WRONLY, os.O_RDWR

ROWS = [
    # Mode, owner, links.
    Row("chmod", lambda p: os.chmod(p / "f", 0o600), {"f": "c"}),
    Row("chmod to the same", lambda p: os.chmod(p / "f", 0o644), {"f": "c"}),
    Row("fchmod", lambda p: _at_descriptor(p / "f", R, lambda d: os.fchmod(d, 0o600)), {"f": "c"}),
    Row("chmod of a directory", lambda p: os.chmod(p / "d", 0o700), {"d": "c"}),
    Row("chown", lambda p: os.chown(p / "f", 1, 2), {"f": "c"}),
    Row("chown to the same", lambda p: os.chown(p / "f", 0, 0), {"f": "c"}),
    Row("lchown of a link", lambda p: os.lchown(p / "s", 1, 2), {"s": "c"}),
    Row("chown through a link", lambda p: os.chown(p / "s", 1, 2), {"f": "c", "s": "a"}),
    Row("link", lambda p: os.link(p / "f", p / "g"), {"f": "c", ".": "mc"}),
    Row("link elsewhere", lambda p: os.link(p / "f", p / "d" / "g"), {"f": "c", "d": "mc"}),
    Row("unlink of one of two names", lambda p: os.unlink(p / "twin2"), {"twin1": "c", ".": "mc"}),
    Row("unlink", lambda p: os.unlink(p / "f"), {".": "mc"}),
    Row("unlink of a link", lambda p: os.unlink(p / "s"), {".": "mc"}),
    Row("unlink of a fifo", lambda p: os.unlink(p / "fifo"), {".": "mc"}),
    # Rename.
    Row("rename", lambda p: os.rename(p / "f", p / "h"), {".": "mc", "h": "c"}),
    Row("rename elsewhere", lambda p: os.rename(p / "f", p / "d" / "h"), {".": "mc", "d": "mc"}),
    Row("rename up", lambda p: os.rename(p / "d" / "inner", p / "h"), {".": "mc", "d": "mc"}),
    Row("rename of a directory", lambda p: os.rename(p / "e", p / "h"), {".": "mc", "h": "c"}),
    Row(
        "rename of a directory elsewhere",
        lambda p: os.rename(p / "e", p / "d" / "e"),
        {".": "mc", "d": "mc"},
    ),
    Row(
        "rename over one of two names",
        lambda p: os.rename(p / "f", p / "twin2"),
        {".": "mc", "twin1": "c", "twin2": "c"},
    ),
    Row("rename to another name of the same", lambda p: os.rename(p / "twin1", p / "twin2"), {}),
    Row(
        "exchange",
        lambda p: calls.renameat2(p / "f", p / "fifo", calls.EXCHANGE),
        {".": "mc", "f": "c", "fifo": "c"},
    ),
    Row(
        "exchange across",
        lambda p: calls.renameat2(p / "f", p / "d" / "inner", calls.EXCHANGE),
        {".": "mc", "d": "mc", "f": "c", "d/inner": "c"},
    ),
    # Making.
    Row("create", lambda p: calls.created(p / "n"), {".": "mc", "n": "amc"}),
    Row("create below", lambda p: calls.created(p / "d" / "n"), {"d": "mc", "d/n": "amc"}),
    Row("mkdir", lambda p: os.mkdir(p / "n"), {".": "mc", "n": "amc"}),
    Row("mkfifo", lambda p: os.mkfifo(p / "n"), {".": "mc", "n": "amc"}),
    Row("mknod", lambda p: calls.made_device(p / "n"), {".": "mc", "n": "amc"}),
    Row("symlink", lambda p: os.symlink("t", p / "n"), {".": "mc", "n": "amc"}),
    Row("rmdir", lambda p: os.rmdir(p / "e"), {".": "mc"}),
    # Content.
    Row("write", lambda p: calls.wrote(p / "f"), {"f": "mc"}),
    Row("write of nothing", lambda p: calls.wrote(p / "f", b""), {}),
    Row("append", lambda p: _appended(p / "f"), {"f": "mc"}),
    Row("write through a link", lambda p: calls.wrote(p / "s"), {"f": "mc", "s": "a"}),
    Row("write to one of two names", lambda p: calls.wrote(p / "twin1"), {"twin1": "mc"}),
    Row("write and fsync", lambda p: _at_descriptor(p / "f", W, _write_and_sync), {"f": "mc"}),
    Row("mapped write", lambda p: _mapped_write(p / "f"), {"f": "Amc"}),
    Row("truncate down", lambda p: os.truncate(p / "f", 3), {"f": "mc"}),
    Row("truncate up", lambda p: os.truncate(p / "f", 30), {"f": "mc"}),
    Row(
        "ftruncate", lambda p: _at_descriptor(p / "f", W, lambda d: os.ftruncate(d, 3)), {"f": "mc"}
    ),
    Row(
        "ftruncate to the same",
        lambda p: _at_descriptor(p / "f", W, lambda d: os.ftruncate(d, 7)),
        {"f": "mc"},
    ),
    Row("open with O_TRUNC", lambda p: calls.opened_truncating(p / "f"), {"f": "mc"}),
    Row(
        "open with O_TRUNC of nothing",
        lambda p: calls.opened_truncating(p / "empty"),
        {"empty": "mc"},
    ),
    Row(
        "open with O_CREAT and O_TRUNC",
        lambda p: calls.opened(p / "f", W | os.O_CREAT | os.O_TRUNC),
        {"f": "mc"},
    ),
    Row("open with O_CREAT of what is there", lambda p: calls.created(p / "f"), {}),
    Row(
        "copy_file_range",
        lambda p: _copied(p / "d" / "inner", p / "f"),
        {"f": "mc", "d/inner": "A"},
        only_mount=True,
    ),
    # Reading.
    Row("read", lambda p: _read(p / "f"), {"f": "a"}),
    Row("read of nothing", lambda p: _at_descriptor(p / "f", R, lambda d: os.read(d, 0)), {}),
    Row("listing", lambda p: _listed(p / "d"), {"d": "a"}),
    Row("readlink", lambda p: os.readlink(p / "s"), {"s": "a"}),
    # Extended attributes.
    Row("setxattr", lambda p: calls.set_xattr(p / "f"), {"f": "c"}),
    Row("setxattr of a directory", lambda p: calls.set_xattr(p / "d"), {"d": "c"}),
    Row("setxattr to the same", lambda p: os.setxattr(p / "x", "user.x", b"1"), {"x": "C"}),
    Row("removexattr", lambda p: os.removexattr(p / "x", "user.x"), {"x": "c"}),
    Row("getxattr", lambda p: os.getxattr(p / "x", "user.x"), {}),
    Row("listxattr", lambda p: os.listxattr(p / "x"), {}),
    # Times.
    Row("utimensat", lambda p: calls.utimensat(p / "f", (5, 6), (7, 8)), {"f": "amc"}),
    Row("utimensat of a link", lambda p: calls.timed_nofollow(p / "s"), {"s": "amc"}),
    Row(
        "utimensat of the access time",
        lambda p: calls.utimensat(p / "f", (5, 6), (0, calls.UTIME_OMIT)),
        {"f": "ac"},
    ),
    Row(
        "utimensat of the modification time",
        lambda p: calls.utimensat(p / "f", (0, calls.UTIME_OMIT), (5, 6)),
        {"f": "mc"},
    ),
    Row(
        "utimensat of nothing",
        lambda p: calls.utimensat(p / "f", (0, calls.UTIME_OMIT), (0, calls.UTIME_OMIT)),
        {},
    ),
    Row("utimensat to now", lambda p: calls.touched(p / "f"), {"f": "amc"}),
    # What moves nothing.
    Row("stat", lambda p: os.stat(p / "f"), {}),
    Row("open and close", lambda p: calls.opened_for_both(p / "f"), {}),
    Row("open of a directory", lambda p: calls.opened_directory(p / "d"), {}),
    Row("O_PATH", lambda p: calls.opened(p / "f", os.O_PATH), {}),
    Row("access", lambda p: calls.readable(p / "f"), {}),
    Row("statvfs", lambda p: os.statvfs(p / "f"), {}),
    Row("lseek", lambda p: _at_descriptor(p / "f", R, lambda d: os.lseek(d, 3, 0)), {}),
    Row("fsync", lambda p: _at_descriptor(p / "f", R, os.fsync), {}),
    Row("fsync of a directory", lambda p: _at_descriptor(p / "d", R, os.fsync), {}),
    Row("mkdir of what is there", lambda p: os.mkdir(p / "d"), {}, errno.EEXIST),
    Row("create of what is there", lambda p: calls.created_exclusively(p / "f"), {}, errno.EEXIST),
    Row("link onto what is there", lambda p: os.link(p / "f", p / "s"), {}, errno.EEXIST),
    Row("symlink onto what is there", lambda p: os.symlink("t", p / "f"), {}, errno.EEXIST),
    Row("rmdir of what is full", lambda p: os.rmdir(p / "d"), {}, errno.ENOTEMPTY),
    Row("rmdir of a file", lambda p: os.rmdir(p / "f"), {}, errno.ENOTDIR),
    Row("unlink of a directory", lambda p: os.unlink(p / "d"), {}, errno.EISDIR),
    Row("unlink of nothing", lambda p: os.unlink(p / "n"), {}, errno.ENOENT),
    Row("rename of nothing", lambda p: os.rename(p / "n", p / "f"), {}, errno.ENOENT),
    Row("rename onto what is full", lambda p: os.rename(p / "e", p / "d"), {}, errno.ENOTEMPTY),
    Row(
        "rename of a file onto a directory", lambda p: os.rename(p / "f", p / "e"), {}, errno.EISDIR
    ),
    Row(
        "rename with NOREPLACE",
        lambda p: calls.renameat2(p / "f", p / "fifo", calls.NOREPLACE),
        {},
        errno.EEXIST,
    ),
    Row("rename into itself", lambda p: os.rename(p / "d", p / "d" / "n"), {}, errno.EINVAL),
    Row("truncate of a directory", lambda p: os.truncate(p / "d", 0), {}, errno.EISDIR),
    Row("truncate below zero", lambda p: os.truncate(p / "f", -1), {}, errno.EINVAL),
    Row("getxattr of nothing", lambda p: os.getxattr(p / "f", "user.n"), {}, errno.ENODATA),
    Row("removexattr of nothing", lambda p: os.removexattr(p / "f", "user.n"), {}, errno.ENODATA),
]


def _write_and_sync(descriptor: int) -> None:
    os.write(descriptor, b"more")
    os.fsync(descriptor)


NAMES = (".", "f", "empty", "x", "twin1", "d", "d/inner", "e", "s", "fifo")


def _prepare(top: Path) -> None:
    for name in ("f", "x", "twin1"):
        (top / name).write_bytes(b"content")
    (top / "empty").write_bytes(b"")
    os.setxattr(top / "x", "user.x", b"1")
    os.link(top / "twin1", top / "twin2")
    (top / "d").mkdir()
    (top / "d" / "inner").write_bytes(b"inner")
    (top / "e").mkdir()
    os.symlink("f", top / "s")
    os.mkfifo(top / "fifo")
    for name in NAMES:
        os.utime(top / name, ns=(OLD_ATIME_NS, OLD_MTIME_NS), follow_symlinks=False)


def _times(path: Path) -> dict[str, int]:
    found = os.lstat(path)
    return {"a": found.st_atime_ns, "m": found.st_mtime_ns, "c": found.st_ctime_ns}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_times_that_an_operation_moves(spot: Spot, row: Row) -> None:
    if row.only_mount and not spot.mounted:
        pytest.skip("file systems differ")
    _prepare(spot.path)
    before = {_inode(spot / name): _times(spot / name) for name in NAMES}
    begin = time.time_ns() - CLOCK_SLACK_NS
    number = number_of(row.act, spot.path)
    spot.same(number, row.fails, "the errno")
    end = time.time_ns() + CLOCK_SLACK_NS
    explicit = row.name.startswith("utimensat") and row.name != "utimensat to now"
    for name in {*NAMES, *row.moved}:
        if not os.path.lexists(spot / name):
            continue
        old, after = before.get(_inode(spot / name)), _times(spot / name)
        letters = row.moved.get(name, "")
        for letter, value in after.items():
            if letter.upper() in letters:
                continue
            if letter not in letters and old is not None:
                spot.same(value, old[letter], f"{letter}time of {name} stays")
            elif explicit and letter != "c":
                spot.true(0 < value < OLD_ATIME_NS, f"{letter}time of {name} is what was said")
            else:
                spot.true(begin <= value <= end, f"{letter}time of {name} is now")
        if "c" in letters and old is not None:
            spot.true(after["c"] > old["c"], f"ctime of {name} moved on")
        if {"m", "c"} <= set(letters) and not row.name.startswith("utimensat"):
            spot.same(after["m"], after["c"], f"mtime and ctime of {name} are one moment")


def _inode(path: Path) -> int:
    return os.lstat(path).st_ino


def test_two_parents_and_the_object_move_at_one_moment(mounted: Spot) -> None:
    one, two = mounted.directory("one"), mounted.directory("two")
    (one / "f").write_bytes(b"")
    os.rename(one / "f", two / "g")
    times = {_times(one)["m"], _times(two)["m"], _times(two / "g")["c"]}
    mounted.same(len(times), 1, "times of a rename")
    os.mkdir(one / "d")
    times = {_times(one)["m"], *_times(one / "d").values()}
    mounted.same(len(times), 1, "times of a mkdir")


def test_times_of_an_open_file_follow_its_descriptor(spot: Spot) -> None:
    path = spot.file("file")
    with path.open("r+b", buffering=0) as file:
        os.utime(path, ns=(OLD_ATIME_NS, OLD_MTIME_NS))
        file.write(b"x")
        spot.true(os.fstat(file.fileno()).st_mtime_ns > OLD_MTIME_NS, "write moves mtime")
        os.utime(file.fileno(), ns=(3, 4))
        found = os.fstat(file.fileno())
        spot.same((found.st_atime_ns, found.st_mtime_ns), (3, 4), "set through the descriptor")
        file.flush()
        os.fsync(file.fileno())
        found = os.stat(path)
        spot.same((found.st_atime_ns, found.st_mtime_ns), (3, 4), "fsync moves none")
    found = os.stat(path)
    spot.same((found.st_atime_ns, found.st_mtime_ns), (3, 4), "close moves none")
    with path.open("r+b", buffering=0) as file:
        os.unlink(path)
        before = os.fstat(file.fileno())
        file.write(b"y")
        os.fchmod(file.fileno(), 0o600)
        found = os.fstat(file.fileno())
        spot.true(found.st_mtime_ns > before.st_mtime_ns, "write to an unlinked file")
        spot.true(found.st_ctime_ns >= found.st_mtime_ns, "fchmod of an unlinked file")


def test_unlinking_moves_the_ctime_of_an_open_file(spot: Spot) -> None:
    for act in (os.unlink, lambda path: os.rename(spot.file("other"), path)):
        path = spot.file("file")
        with path.open("rb") as held:
            before = os.fstat(held.fileno())
            act(path)
            after = os.fstat(held.fileno())
        spot.true(after.st_ctime_ns > before.st_ctime_ns, "ctime")
        spot.same(after.st_mtime_ns, before.st_mtime_ns, "mtime")
        spot.same(after.st_nlink, 0, "names")


def test_clocks_go_forward_in_the_order_of_operations(mounted: Spot) -> None:
    last = 0
    for number in range(20):
        path = mounted.file(f"f{number}", b"x")
        moment = os.stat(path).st_ctime_ns
        mounted.true(moment > last, f"operation {number} is later than the one before")
        last = moment
