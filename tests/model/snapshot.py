"""What a tree holds, in a form in which two trees can be compared; and when each of it was changed.

Owns what "equal" means.  A timestamp is compared by the operation during which it was set: so the
order of all timestamps must agree, while their values may not.

Where a mount may differ from a local file system, and why:
- The access time of a file moves later or not at all when the page cache answers a read: the file
  system behind a FUSE mount never hears of that read.  It is compared where no read moved it.
- Times of fifos, sockets and devices stay when they are used: the kernel serves them itself.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.model.directory import attributes

FIRST_TIME_NS = 1_600_000_000 * 10**9
"""No run was before it; what utimens sets always is."""


class Times(NamedTuple):
    """Timestamps in nanoseconds."""

    atime_ns: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Thing:
    """One name and what stands behind it."""

    path: str
    attributes: tuple[int, ...]
    same_as: str
    """The first path of the same inode."""
    xattrs: tuple[tuple[str, bytes], ...]
    content: bytes
    """A file's bytes, a link's target, a directory's names."""

    def brief(self) -> str:
        mode, nlink, uid, gid, size, device = self.attributes
        return (
            f"{self.path}: mode {mode:o} nlink {nlink} owner {uid}:{gid} size {size} dev {device} "
            f"inode of {self.same_as} xattrs {dict(self.xattrs)} bytes {self.content[:40]!r}"
        )


class Timeline:
    """Which operation was under way at a time; operations do not overlap."""

    def __init__(self) -> None:
        self._begins: list[int] = []

    def began(self, at_ns: int) -> None:
        self._begins.append(at_ns)

    def operation_at(self, at_ns: int) -> int:
        """Return its number; -1 before all of them, but times that utimens set are themselves."""
        if at_ns < FIRST_TIME_NS:
            return at_ns
        return bisect_right(self._begins, at_ns) - 1


def _walk(root: Path, path: str = "") -> Iterator[tuple[str, os.stat_result]]:
    found = os.lstat(root / path)
    yield path, found
    if stat.S_ISDIR(found.st_mode):
        for name in sorted(os.listdir(root / path)):
            yield from _walk(root, f"{path}/{name}" if path else name)


def times_of(root: Path) -> dict[str, tuple[int, Times]]:
    """Return mode and times of everything below `root`, without reading any of it twice."""
    return {
        path: (found.st_mode, Times(found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns))
        for path, found in _walk(root)
    }


def _content(path: Path, mode: int) -> bytes:
    if stat.S_ISREG(mode):
        return path.read_bytes()
    if stat.S_ISLNK(mode):
        return os.readlink(path).encode()
    if stat.S_ISDIR(mode):
        return "\n".join(sorted(os.listdir(path))).encode()
    return b""


def tree_of(root: Path) -> list[Thing]:
    """Return everything below `root`, sorted by path."""
    first: dict[int, str] = {}
    things = []
    for path, found in _walk(root):
        where = root / path
        names = sorted(os.listxattr(where, follow_symlinks=False))
        things.append(
            Thing(
                path,
                attributes(found),
                first.setdefault(found.st_ino, path),
                tuple((name, os.getxattr(where, name, follow_symlinks=False)) for name in names),
                _content(where, found.st_mode),
            )
        )
    return sorted(things, key=lambda thing: thing.path)


def assert_same_tree(want: list[Thing], found: list[Thing]) -> None:
    """Raises: AssertionError that names what differs, and where the bytes do."""
    lines: list[str] = []
    here = {thing.path: thing for thing in want}
    there = {thing.path: thing for thing in found}
    for path in sorted(here.keys() | there.keys()):
        one, other = here.get(path), there.get(path)
        if one == other:
            continue
        lines.append(f"local {one.brief() if one else path + ': absent'}")
        lines.append(f"mount {other.brief() if other else path + ': absent'}")
        if one and other and one.content != other.content:
            lines.append(f"  bytes differ from {first_difference(one.content, other.content)} on")
    assert not lines, "\n".join(lines)


def first_difference(one: bytes, other: bytes) -> int:
    """Return the first offset at which the two differ."""
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)


def assert_same_order(
    want: dict[str, tuple[int, Times]],
    found: dict[str, tuple[int, Times]],
    local: Timeline,
    mount: Timeline,
) -> None:
    """Every timestamp was set by the same operation on both sides.  See above for exceptions."""
    lines: list[str] = []
    for path, (mode, times) in want.items():
        one = Times(*map(local.operation_at, times))
        other = Times(*map(mount.operation_at, found[path][1]))
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            continue
        heard = stat.S_ISDIR(mode) or times.atime_ns < FIRST_TIME_NS
        if one[1:] != other[1:] or (heard and one.atime_ns != other.atime_ns):
            lines.append(f"{path or '.'}: set by operations {one} locally, {other} on the mount")
    assert not lines, "\n".join(lines)
