"""The operations of the model tests: a name, arguments, and the strategy that draws them.

Owns what a random run may do.  Refuses to know how an operation is carried out: `directory` does it
with system calls, `tests/unit/vfs/kernel.py` on a vfs without a kernel.

Invariants:
- An operation is plain data, so that a failing run prints as a list that can be run again.
- Names are few and trees shallow, so that operations meet each other; a run begins with a prologue
  that makes some, so that most operations find something.
- Link targets hold no "..": nothing outside the directory of a run can be named.
"""

from __future__ import annotations

import os
import stat
from random import Random
from typing import Any, NamedTuple

from hypothesis import strategies as st

SLOTS = 4
"""Open files that a run may have at once."""

USER = 1000
"""The caller beside root, and its group."""

KIB = 1 << 10
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2

DIRECTORIES, FILES = ("a", "b"), ("x", "y", "z")
"""Names that mostly stand for directories, and names that mostly stand for files."""

LONG_NAME = "n" * 256
EDGES = (1, 4095, 4096, 4097, 65_536, 131_071, 131_072, 131_073, 262_144, 1_000_000)
"""Sizes and offsets where pages, blocks and stripes end."""

OLD_S = 1_000_000_000
"""Times that utimens sets begin here: before any run."""

DATA = (
    "write",
    "pwrite",
    "read",
    "pread",
    "ftruncate",
    "truncate",
    "copy_range",
    "mmap_write",
    "mmap_read",
)


class Operation(NamedTuple):
    """One step of a run."""

    name: str
    arguments: tuple[Any, ...] = ()
    uid: int = 0
    """Who does it."""

    def __repr__(self) -> str:
        text = f"Operation({self.name!r}, {self.arguments!r}, {self.uid})"
        return text.replace(repr(LONG_NAME), "LONG_NAME").replace(LONG_NAME, "<LONG_NAME>")


def content(seed: int, length: int) -> bytes:
    """Return the bytes that a write with this seed writes."""
    return Random(seed).randbytes(length)


_above = st.sampled_from(("", "", "", "a/", "a/", "b/", "a/b/"))
_directory = st.builds(str.__add__, _above, st.sampled_from(DIRECTORIES))
_file = st.builds(str.__add__, _above, st.sampled_from(FILES))
_path = st.one_of(_file, _file, _file, _directory)
_odd = st.sampled_from((LONG_NAME, "a/" + LONG_NAME, ".", "x/y", "z/../x", "a/."))
_to_file = st.one_of(*[_file] * 8, _directory, _odd)
_to_directory = st.one_of(*[_directory] * 8, _file, _odd)
_to_any = st.one_of(*[_file] * 8, *[_directory] * 4, _odd)
_slot = st.integers(0, SLOTS - 1)
_seed = st.integers(0, 1 << 30)
_offset = st.one_of(
    st.integers(0, 20_000), st.integers(0, 300_000), st.sampled_from((0, *EDGES)), st.just(0)
)
_length = st.one_of(
    st.integers(1, 200), st.integers(1, 9_000), st.sampled_from(EDGES), st.integers(1, 300_000)
)


_mode = st.one_of(
    st.sampled_from((0o644, 0o755, 0o600, 0o777, 0o4755, 0o2755, 0o2777, 0o1777)),
    st.integers(0, 0o7777),
)
_owner = st.sampled_from((-1, 0, USER, USER + 1))
_time_ns = st.one_of(
    st.none(), st.builds(lambda ns: OLD_S * 10**9 + ns, st.integers(0, 10**18 // 2))
)
_follow = st.booleans()
_key = st.sampled_from(("user.a", "user.b", "user.long" + "x" * 100, "trusted.c", "security.d"))
_access = st.sampled_from((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR))
_open_flags = st.one_of(
    *[st.builds(int.__or__, _access, st.just(os.O_CREAT))] * 4,
    _access,
    st.builds(int.__or__, _access, st.just(os.O_CREAT | os.O_APPEND)),
    st.builds(int.__or__, _access, st.just(os.O_CREAT | os.O_TRUNC)),
    st.builds(int.__or__, _access, st.just(os.O_CREAT | os.O_EXCL)),
    st.builds(int.__or__, _access, st.just(os.O_NOFOLLOW)),
    st.just(os.O_RDONLY | os.O_DIRECTORY),
)
_node = st.one_of(
    st.just((stat.S_IFREG, 0)),
    st.just((stat.S_IFIFO, 0)),
    st.just((stat.S_IFSOCK, 0)),
    st.just((stat.S_IFCHR, os.makedev(300, 7))),
    st.just((stat.S_IFBLK, os.makedev(300, 70_000))),
)


def _op(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, Any]]:
    return st.tuples(st.just(name), st.tuples(*arguments))


_WEIGHTED: tuple[tuple[int, st.SearchStrategy[tuple[str, Any]]], ...] = (
    (8, _op("open", _slot, _to_file, _open_flags, _mode)),
    (1, _op("open", _slot, _to_any, st.just(os.O_RDONLY), _mode)),
    (1, _op("close", _slot)),
    (6, _op("pwrite", _slot, _offset, _length, _seed)),
    (3, _op("write", _slot, _length, _seed)),
    (3, _op("pread", _slot, _offset, _length)),
    (1, _op("read", _slot, _length)),
    (3, _op("ftruncate", _slot, _offset)),
    (2, _op("truncate", _path, _offset)),
    (2, _op("fsync", _slot)),
    (1, _op("fstat", _slot)),
    (1, _op("fchmod", _slot, _mode)),
    (1, _op("fchown", _slot, _owner, _owner)),
    (1, _op("futimens", _slot, _time_ns, _time_ns)),
    (4, _op("mkdir", _to_directory, _mode)),
    (2, _op("rmdir", _to_directory)),
    (3, _op("unlink", _to_file)),
    (4, _op("link", _to_file, _to_file)),
    (2, _op("symlink", _path, _to_any)),
    (1, _op("readlink", _path)),
    (5, _op("rename", _to_file, _to_file, st.just(0))),
    (3, _op("rename", _to_directory, _to_directory, st.just(0))),
    (2, _op("rename", _to_any, _to_any, st.just(0))),
    (2, _op("rename", _path, _path, st.just(RENAME_NOREPLACE))),
    (3, _op("rename", _path, _path, st.just(RENAME_EXCHANGE))),
    (1, _op("mknod", _to_file, _mode, _node)),
    (2, _op("chmod", _path, _mode)),
    (2, _op("chown", _path, _owner, _owner, _follow)),
    (2, _op("utimens", _path, _time_ns, _time_ns, _follow)),
    (1, _op("utime_now", _path)),
    (3, _op("setxattr", _path, _key, st.integers(0, 300), _seed, st.integers(0, 2), _follow)),
    (1, _op("getxattr", _path, _key, _follow)),
    (1, _op("listxattr", _path, _follow)),
    (2, _op("removexattr", _path, _key, _follow)),
    (2, _op("stat", _path, _follow)),
    (2, _op("listdir", _to_directory)),
    (1, _op("fsyncdir", _directory)),
    (2, _op("drop_caches")),
)
_KERNEL_ONLY: tuple[tuple[int, st.SearchStrategy[tuple[str, Any]]], ...] = (
    (3, _op("mmap_write", _slot, _offset, _length, _seed)),
    (1, _op("mmap_read", _slot)),
    (2, _op("copy_range", _slot, _slot, _offset, _offset, _length)),
)


def _operation(*, kernel: bool, users: bool) -> st.SearchStrategy[Operation]:
    weighted = _WEIGHTED + _KERNEL_ONLY if kernel else _WEIGHTED
    table = [strategy for weight, strategy in weighted for _ in range(weight)]
    uid = st.sampled_from((0, 0, 0, USER)) if users else st.just(0)
    chosen = st.integers(0, len(table) - 1).flatmap(table.__getitem__)
    return st.builds(lambda call, by: Operation(*call, by), chosen, uid)


def prologue() -> list[Operation]:
    """Return what every run begins with: some directories, and a file open in each slot."""
    steps = [Operation("mkdir", (path, 0o777)) for path in ("a", "b", "a/b")]
    for slot, path in enumerate(("x", "a/x", "b/y", "a/b/z")):
        steps.append(Operation("open", (slot, path, os.O_RDWR | os.O_CREAT, 0o666)))
        steps.append(Operation("write", (slot, 10_000 * slot + 1, slot)))
    return steps


@st.composite
def operations(
    draw: st.DrawFn, most: int, *, kernel: bool = True, users: bool = True
) -> list[Operation]:
    """Draw up to `most` operations; `kernel`: also those that only a kernel can carry out."""
    count = draw(st.integers(0, most).map(lambda left: most - left))
    one = _operation(kernel=kernel, users=users)
    return draw(st.lists(one, min_size=count, max_size=count))
