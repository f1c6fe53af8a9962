"""What a volume may be after a crash, from what was promised before it.

A recorded run marks its promises; `Truth` reads the marks up to the crash and judges what was
recovered.  The rules, as ARCHITECTURE.md states them:

- Metadata commits survive in their order and never in part, at least up to the last completed
  `durable()`, or, where only processes died, up to the last that was written: the recovered tree is
  one of those that the run went through, and not an older one.
- What was committed before a change of the tree is there whenever that change is: so a file that
  was renamed over another is never without its bytes.
- Each byte of a file is of a version not older than the last one known to be committed, and the
  length lies between those of these versions.  Nothing reads as anything that was never written.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rainfs.meta.namespace import Namespace
from rainfs.model import ROOT_INODE, InodeNumber
from tests.simulation.whole import Lab

STEP_BYTES = 256
"""Contents are compared in pieces of this length first."""

MAX_ENTRIES = 100_000


class Tree(NamedTuple):
    """All names, and what the inodes that they lead to say of themselves."""

    entries: frozenset[tuple[int, bytes, int]]
    """(directory, name, inode)"""
    inodes: frozenset[tuple[int, int, bytes, frozenset[tuple[bytes, bytes]]]]
    """(inode, mode, target of a link, extended attributes)"""


class Recovered(NamedTuple):
    """A mounted volume, read whole."""

    tree: Tree
    contents: dict[int, bytes]


@dataclass(frozen=True, slots=True)
class Changed:
    """The inode's content is about to become this."""

    inode: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Begun:
    """The change that leads to tree number `tree` begins; the floors hold once it is there."""

    tree: int
    floors: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Done:
    """The change that led to tree number `tree` was answered."""

    tree: int


@dataclass(frozen=True, slots=True)
class Durable:
    """Tree and floors, which were reached before the call, survive a power cut from now on."""

    tree: int
    floors: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Written:
    """Tree, floors and stripes survive the death of all processes from now on."""

    tree: int
    floors: Mapping[int, int]
    stripes: frozenset[int]
    """Stripes that are committed, or were, and that no earlier mark named."""


@dataclass
class Truth:
    """The promises that hold at one moment."""

    trees: Sequence[Tree]
    """All trees of the run, also those that come later."""
    versions: dict[int, list[bytes]] = field(default_factory=dict)
    """Contents that each file had, one after the other; none means empty."""
    durable: int = 0
    durable_floors: dict[int, int] = field(default_factory=dict)
    done: int = 0
    begun: int = 0
    written: int = 0
    written_floors: dict[int, int] = field(default_factory=dict)
    floors_of: dict[int, Mapping[int, int]] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)

    def note(self, mark: object) -> None:
        """Take in the next mark."""
        match mark:
            case Changed(inode, content):
                self.versions.setdefault(inode, [b""]).append(content)
            case Begun(tree, floors):
                self.begun = tree
                self.floors_of[tree] = floors
            case Done(tree):
                self.done = tree
            case Durable(tree, floors):
                self.durable = max(self.durable, tree)
                _raise_floors(self.durable_floors, floors)
            case Written(tree, floors, stripes):
                self.written = max(self.written, tree)
                _raise_floors(self.written_floors, floors)
                self.seen |= stripes
            case _:
                raise AssertionError(mark)

    def judge(self, found: Recovered, *, alive: bool) -> None:
        """Raise AssertionError if `found` breaks a promise; `alive`: the metadata lost nothing."""
        oldest = max(self.durable, self.written if alive else 0)
        newest = max(self.done, self.begun)
        number = next((n for n in range(oldest, newest + 1) if self.trees[n] == found.tree), None)
        if number is None:
            raise AssertionError(
                f"the tree is none of {oldest} to {newest}: {_differences(self.trees, found.tree)}"
            )
        floors = dict(self.durable_floors)
        _raise_floors(floors, self.floors_of.get(number, {}))
        if alive:
            _raise_floors(floors, self.written_floors)
        for inode, content in found.contents.items():
            floor = floors.get(inode, 0)
            allowed = self.versions.get(inode, [b""])[floor:]
            wrong = first_wrong_byte(content, allowed)
            assert wrong is None, (
                f"inode {inode}, tree {number}, version {floor} or later: byte {wrong} of "
                f"{len(content)} is wrong (lengths {sorted({len(v) for v in allowed})})"
            )


def _raise_floors(floors: dict[int, int], to: Mapping[int, int]) -> None:
    for inode, version in to.items():
        floors[inode] = max(version, floors.get(inode, 0))


def _differences(trees: Sequence[Tree], found: Tree) -> str:
    nearest = min(trees, key=lambda tree: _distance(tree, found))
    number = trees.index(nearest)
    return (
        f"nearest is {number}; there besides {set(found.entries - nearest.entries)} "
        f"{set(found.inodes - nearest.inodes)}, missing {set(nearest.entries - found.entries)} "
        f"{set(nearest.inodes - found.inodes)}"
    )


def _distance(one: Tree, other: Tree) -> int:
    return len(one.entries ^ other.entries) + len(one.inodes ^ other.inodes)


def first_wrong_byte(found: bytes, versions: Sequence[bytes]) -> int | None:
    """Return where `found` is like none of the versions, None if it may be.

    A length that is impossible counts as a wrong byte at the end.
    """
    if found in versions:
        return None
    lengths = [len(version) for version in versions]
    if not min(lengths) <= len(found) <= max(lengths):
        return len(found)
    for start in range(0, len(found), STEP_BYTES):
        piece = found[start : start + STEP_BYTES]
        if any(version[start : start + len(piece)] == piece for version in versions):
            continue
        for index, byte in enumerate(piece, start):
            if not any(index < len(v) and v[index] == byte for v in versions):
                return index
    return None


async def read_volume(lab: Lab) -> Recovered:
    """Read all names, attributes and bytes, and check link counts on the way."""
    names = Namespace(lab.engine, lab.session)
    entries: list[tuple[int, bytes, int]] = []
    inodes: list[tuple[int, int, bytes, frozenset[tuple[bytes, bytes]]]] = []
    contents: dict[int, bytes] = {}
    links: dict[int, int] = {ROOT_INODE: 2}
    kept_links = {ROOT_INODE: (await names.getattr(InodeNumber(ROOT_INODE))).nlink}
    directories = [ROOT_INODE]
    while directories:
        directory = InodeNumber(directories.pop())
        for entry in await names.readdir(directory, 0, MAX_ENTRIES):
            attr = entry.attr
            entries.append((directory, entry.name, attr.inode))
            links[attr.inode] = links.get(attr.inode, 0) + 1
            if attr.inode in kept_links:
                continue
            kept_links[attr.inode] = attr.nlink
            pairs = {
                (name, await names.getxattr(attr.inode, name))
                for name in await names.listxattr(attr.inode)
            }
            inodes.append((attr.inode, attr.mode, attr.target, frozenset(pairs)))
            if stat.S_ISDIR(attr.mode):
                directories.append(attr.inode)
                links[attr.inode] += 1
                links[directory] += 1
            elif stat.S_ISREG(attr.mode):
                contents[attr.inode] = await read_file(lab, attr.inode)
    assert links == kept_links, f"link counts are wrong: {links} counted, {kept_links} kept"
    return Recovered(Tree(frozenset(entries), frozenset(inodes)), contents)


async def read_file(lab: Lab, inode: int) -> bytes:
    """Read a file to its end, which must be where its size says."""
    handle = await lab.vfs.files.open(inode, truncate=False, write=False)
    try:
        size = (await lab.vfs.attributes.get(inode)).size
        found = bytes(await lab.vfs.files.read(handle, 0, size)) if size else b""
        assert len(found) == size, f"inode {inode} is longer than its data"
    finally:
        lab.vfs.files.release(handle)
    return found
