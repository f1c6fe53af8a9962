"""Kinds of damage to the metadata, and what fsck must find and may change because of each."""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from rainfs.meta import keys
from rainfs.meta.checking_findings import Kind
from rainfs.meta.directory import PROBE_SLOTS, hash_with
from rainfs.meta.records import (
    ATTRS,
    COUNTERS,
    DIRENTS,
    EXTENTS,
    PLACEMENTS,
    STATES,
    Dirent,
    ExtentRecord,
)
from rainfs.model import ROOT_INODE, InodeNumber, Placement
from tests.unit.care.fsck_world import KIB, FsckWorld, Rows

Damage = Callable[[FsckWorld], object]
JUNK = b"\xc1junk"

IGNORED = frozenset({keys.NEXT_EPOCH})
"""A repair takes a session, and that is all right."""


class Case(NamedTuple):
    """A damage, what must be found, and which paths may look different afterwards."""

    damage: Damage
    kinds: set[Kind]
    changed: Callable[[FsckWorld], set[bytes]] = lambda world: set()
    """Keys whose rows may differ from before the damage once it is repaired."""


def entry_key(world: FsckWorld, directory: str, name: bytes) -> bytes:
    parent = world.inodes[directory]
    for key, raw in world.rows.items():
        if key[:1] == b"D" and keys.number_of(key) == parent and DIRENTS.decode(raw).name == name:
            return key
    raise AssertionError(name)


def set_attr(world: FsckWorld, path: str, **changes: object) -> None:
    key = world.inode_row(path)
    world.rows[key] = ATTRS.encode(replace(ATTRS.decode(world.rows[key]), **changes))


def add_entry(world: FsckWorld, directory: int, name: bytes, inode: int, kind: int) -> bytes:
    slot = hash_with(world.volume.name_secret)(name)
    key = keys.dirent_key(InodeNumber(directory), slot)
    world.rows[key] = DIRENTS.encode(Dirent(name, InodeNumber(inode), kind))
    return key


def extent_key(world: FsckWorld, path: str, offset: int) -> bytes:
    return keys.extent_key(world.inodes[path], offset)


def edit_extent(world: FsckWorld, path: str, offset: int, **changes: int) -> None:
    key = extent_key(world, path, offset)
    world.rows[key] = EXTENTS.encode(replace(EXTENTS.decode(world.rows[key]), **changes))


def edit_state(world: FsckWorld, name: str, **changes: object) -> None:
    key = keys.state_key(world.stripes[name])
    world.rows[key] = STATES.encode(replace(STATES.decode(world.rows[key]), **changes))


def delete(world: FsckWorld, key: bytes) -> None:
    del world.rows[key]


def junk(world: FsckWorld, key: bytes) -> None:
    assert key in world.rows
    world.rows[key] = JUNK


def lost_found(world: FsckWorld) -> set[bytes]:
    """Rows that the making of /lost+found adds or changes."""
    made = {key for key in world.rows if key[:1] == b"I" and keys.number_of(key) >= 4_000}
    listed = {
        key
        for key, raw in world.rows.items()
        if key[:1] == b"D"
        and (DIRENTS.decode(raw).name == b"lost+found" or keys.number_of(key) >= 4_000)
    }
    return {keys.NEXT_INODE, keys.inode_key(ROOT_INODE)} | made | listed


def moved_name(world: FsckWorld) -> None:
    key = entry_key(world, "/", b"plain")
    world.rows[keys.dirent_key(ROOT_INODE, keys.second_of(key) ^ (1 << 40))] = world.rows.pop(key)


def doubled_name(world: FsckWorld) -> None:
    key = entry_key(world, "/", b"plain")
    slot = keys.second_of(key)
    free = next(s for s in range(slot + 1, slot + PROBE_SLOTS) if dirent(world, s) is None)
    world.rows[keys.dirent_key(ROOT_INODE, free)] = world.rows[key]


def dirent(world: FsckWorld, slot: int) -> bytes | None:
    return world.rows.get(keys.dirent_key(ROOT_INODE, slot))


def circle(world: FsckWorld) -> None:
    """/dir moves below /dir/sub: nobody can reach either."""
    delete(world, entry_key(world, "/", b"dir"))
    add_entry(world, world.inodes["/dir/sub"], b"up", world.inodes["/dir"], stat.S_IFDIR)
    set_attr(world, "/dir", parent=world.inodes["/dir/sub"])
    set_attr(world, "/dir/sub", nlink=3)
    set_attr(world, "/", nlink=3)


def second_parent(world: FsckWorld) -> None:
    add_entry(world, world.inodes["/other-dir"], b"again", world.inodes["/dir"], stat.S_IFDIR)
    set_attr(world, "/other-dir", nlink=3)


def overlapping(world: FsckWorld) -> None:
    """The older stripe's first extent grows into the newer one behind it."""
    edit_extent(world, "/plain", 0, length=6 * KIB)
    edit_state(
        world,
        "first",
        live_bytes=STATES.decode(world.rows[keys.state_key(world.stripes["first"])]).live_bytes
        + 2 * KIB,
    )
    set_attr(world, "/plain", allocated=22 * KIB)


def swallowed(world: FsckWorld) -> None:
    """The older stripe's first extent covers all of the newer one, and more."""
    key = extent_key(world, "/plain", 0)
    grown = EXTENTS.decode(world.rows[key])
    world.rows[key] = EXTENTS.encode(replace(grown, length=8 * KIB))
    delete(world, extent_key(world, "/plain", 4 * KIB))
    middle = ExtentRecord(2 * KIB, world.stripes["second"], 0, 0)
    world.rows[extent_key(world, "/plain", 4 * KIB)] = EXTENTS.encode(middle)


def plain_rows(world: FsckWorld) -> set[bytes]:
    """The file /plain and the stripes that hold it."""
    inode = world.inodes["/plain"]
    extents = {key for key in world.rows if key[:1] == b"E" and keys.number_of(key) == inode}
    offsets = {extent_key(world, "/plain", page * KIB) for page in range(20)}
    states = {keys.state_key(world.stripes[name]) for name in ("first", "second")}
    return extents | offsets | states | {keys.inode_key(inode)}


def deep_is_gone(world: FsckWorld) -> set[bytes]:
    stripe = world.stripes["third"]
    return {
        extent_key(world, "/dir/sub/deep", 0),
        world.inode_row("/dir/sub/deep"),
        keys.stripe_key(stripe),
        keys.state_key(stripe),
        keys.tombstone_key(stripe),
    }


def unreferenced(world: FsckWorld) -> None:
    delete(world, extent_key(world, "/dir/sub/deep", 0))
    set_attr(world, "/dir/sub/deep", allocated=0)


def deep_row(world: FsckWorld) -> set[bytes]:
    return {world.inode_row("/dir/sub/deep")}


CASES: dict[str, Case] = {
    # --- names
    "entry of nothing": Case(
        lambda w: add_entry(w, 1, b"ghost", 3_000, stat.S_IFREG), {Kind.DANGLING_ENTRY}
    ),
    "entry below a file": Case(
        lambda w: add_entry(w, w.inodes["/empty"], b"x", w.inodes["/plain"], stat.S_IFREG),
        {Kind.DANGLING_ENTRY},
    ),
    "entry below nothing that ever was": Case(
        lambda w: add_entry(w, 1 << 50, b"x", w.inodes["/plain"], stat.S_IFREG),
        {Kind.DANGLING_ENTRY},
    ),
    "unreadable entry": Case(
        lambda w: junk(w, entry_key(w, "/", b"plain")),
        {Kind.BAD_ROW, Kind.UNREACHABLE},
        lambda w: lost_found(w) | {entry_key_before(w, b"plain"), w.inode_row("/plain")},
    ),
    "lost entry of a directory": Case(
        lambda w: delete(w, entry_key(w, "/", b"dir")),
        {Kind.UNREACHABLE, Kind.LINK_COUNT},
        lambda w: lost_found(w) | {entry_key_before(w, b"dir"), w.inode_row("/dir")},
    ),
    "bad name": Case(
        lambda w: add_entry(w, 1, b"a/b", w.inodes["/plain"], stat.S_IFREG),
        {Kind.BAD_NAME},
    ),
    "dot as a name": Case(
        lambda w: add_entry(w, 1, b"..", w.inodes["/plain"], stat.S_IFREG),
        {Kind.BAD_NAME},
    ),
    "name in a wrong slot": Case(moved_name, {Kind.BAD_NAME}),
    "name that is there twice": Case(doubled_name, {Kind.BAD_NAME}),
    "entry of another type": Case(
        lambda w: w.rows.__setitem__(
            entry_key(w, "/", b"plain"),
            DIRENTS.encode(Dirent(b"plain", w.inodes["/plain"], stat.S_IFDIR)),
        ),
        {Kind.ENTRY_TYPE},
    ),
    "directory with two parents": Case(second_parent, {Kind.TWO_PARENTS, Kind.LINK_COUNT}),
    "name of the root": Case(
        lambda w: add_entry(w, w.inodes["/dir"], b"root", 1, stat.S_IFDIR),
        {Kind.TWO_PARENTS},
    ),
    "circle": Case(
        circle,
        {Kind.CIRCLE, Kind.UNREACHABLE, Kind.LINK_COUNT},
        lambda w: (
            lost_found(w)
            | {entry_key_before(w, b"dir"), w.inode_row("/dir"), w.inode_row("/dir/sub")}
        ),
    ),
    # --- inodes
    "wrong '..'": Case(
        lambda w: set_attr(w, "/dir/sub", parent=w.inodes["/other-dir"]), {Kind.PARENT}
    ),
    "root below something": Case(
        lambda w: set_attr(w, "/", parent=w.inodes["/dir"]), {Kind.PARENT}
    ),
    "link count of a file": Case(lambda w: set_attr(w, "/linked", nlink=3), {Kind.LINK_COUNT}),
    "link count 0 of a named file": Case(
        lambda w: set_attr(w, "/plain", nlink=0), {Kind.LINK_COUNT}
    ),
    "link count of a directory": Case(lambda w: set_attr(w, "/dir", nlink=2), {Kind.LINK_COUNT}),
    "link count of the root": Case(lambda w: set_attr(w, "/", nlink=9), {Kind.LINK_COUNT}),
    "inode that says to be another": Case(
        lambda w: set_attr(w, "/plain", inode=InodeNumber(99)), {Kind.BAD_INODE}
    ),
    "no file type": Case(lambda w: set_attr(w, "/plain", mode=0o644), {Kind.BAD_INODE}),
    "a directory that says to be a file": Case(
        lambda w: set_attr(w, "/dir", mode=stat.S_IFREG | 0o755), {Kind.BAD_INODE}
    ),
    "root that says to be a file": Case(
        lambda w: set_attr(w, "/", mode=stat.S_IFREG | 0o755), {Kind.BAD_INODE}
    ),
    "negative size": Case(lambda w: set_attr(w, "/plain", size=-1), {Kind.BAD_INODE}),
    "owner beyond 32 bits": Case(
        lambda w: set_attr(w, "/plain", uid=1 << 40),
        {Kind.BAD_INODE},
        lambda w: {w.inode_row("/plain")},
    ),
    "time beyond 64 bits": Case(
        lambda w: set_attr(w, "/plain", mtime_ns=(1 << 64) - 1),
        {Kind.BAD_INODE},
        lambda w: {w.inode_row("/plain")},
    ),
    "size of a link": Case(lambda w: set_attr(w, "/link", size=77), {Kind.BAD_INODE}),
    "target of a file": Case(lambda w: set_attr(w, "/plain", target=b"x"), {Kind.BAD_INODE}),
    "link without a target": Case(
        lambda w: set_attr(w, "/link", target=b"", size=0),
        {Kind.BAD_INODE, Kind.DANGLING_ENTRY},
        lambda w: {entry_key_before(w, b"link"), w.inode_row("/link")},
    ),
    "unknown layout": Case(lambda w: set_attr(w, "/plain", layout=9), {Kind.LAYOUT}),
    "allocation": Case(lambda w: set_attr(w, "/plain", allocated=1), {Kind.ALLOCATED}),
    "gone inode of an empty file": Case(
        lambda w: delete(w, w.inode_row("/empty")),
        {Kind.DANGLING_ENTRY},
        lambda w: {w.inode_row("/empty"), entry_key_before(w, b"empty")},
    ),
    "unreadable inode of an empty file": Case(
        lambda w: junk(w, w.inode_row("/empty")),
        {Kind.BAD_ROW, Kind.DANGLING_ENTRY},
        lambda w: {w.inode_row("/empty"), entry_key_before(w, b"empty")},
    ),
    "gone inode of a file with bytes": Case(
        lambda w: delete(w, w.inode_row("/linked")),
        {Kind.LOST_INODE},
        lambda w: {w.inode_row("/linked")},
    ),
    "unreadable inode of a directory": Case(
        lambda w: junk(w, w.inode_row("/dir/sub")),
        {Kind.LOST_INODE},
        lambda w: {w.inode_row("/dir/sub")},
    ),
    "gone root": Case(
        lambda w: delete(w, w.inode_row("/")), {Kind.LOST_INODE}, lambda w: {w.inode_row("/")}
    ),
    "nameless file": Case(
        lambda w: delete(w, entry_key(w, "/", b"empty")),
        {Kind.UNREACHABLE},
        lambda w: lost_found(w) | {entry_key_before(w, b"empty")},
    ),
    "removed file that nobody frees": Case(
        lambda w: delete(w, keys.orphan_key(1, w.inodes["/removed"])),
        {Kind.ORPHAN},
        lambda w: {keys.orphan_key(epoch, w.inodes["/removed"]) for epoch in (0, 1)},
    ),
    "named file on the list to be freed": Case(
        lambda w: w.rows.__setitem__(keys.orphan_key(1, w.inodes["/plain"]), b""), {Kind.ORPHAN}
    ),
    "nothing on the list to be freed": Case(
        lambda w: w.rows.__setitem__(keys.orphan_key(1, InodeNumber(77)), b""), {Kind.ORPHAN}
    ),
    "attribute of nothing": Case(
        lambda w: w.rows.__setitem__(keys.xattr_key(InodeNumber(77), b"user.x"), b"1"),
        {Kind.XATTR},
    ),
    "attribute that is not marked": Case(
        lambda w: set_attr(w, "/plain", has_xattrs=False), {Kind.XATTR}
    ),
    "attribute without a name": Case(
        lambda w: w.rows.__setitem__(keys.xattr_key(w.inodes["/plain"], b""), b"1"),
        {Kind.BAD_ROW},
    ),
    "attribute beyond the limit": Case(
        lambda w: w.rows.__setitem__(keys.xattr_key(w.inodes["/plain"], b"user.c"), bytes(70_000)),
        {Kind.XATTR},
    ),
    # --- extents
    "unreadable extent": Case(
        lambda w: junk(w, extent_key(w, "/plain", 4 * KIB)),
        {Kind.EXTENT, Kind.ALLOCATED, Kind.LIVE_BYTES},
        plain_rows,
    ),
    "impossible extent": Case(
        lambda w: edit_extent(w, "/plain", 4 * KIB, length=0),
        {Kind.EXTENT, Kind.ALLOCATED, Kind.LIVE_BYTES},
        plain_rows,
    ),
    "overlapping extents": Case(overlapping, {Kind.EXTENT}),
    "an extent over another": Case(swallowed, {Kind.EXTENT, Kind.LIVE_BYTES}, plain_rows),
    "extent beyond the end": Case(
        lambda w: set_attr(w, "/plain", size=17 * KIB),
        {Kind.EXTENT},
        plain_rows,
    ),
    "extents of a directory": Case(
        lambda w: w.rows.__setitem__(
            extent_key(w, "/dir", 0),
            EXTENTS.encode(ExtentRecord(100, w.stripes["third"], 0, 0)),
        ),
        {Kind.EXTENT, Kind.LIVE_BYTES},
    ),
    "extents of nothing": Case(
        lambda w: w.rows.__setitem__(
            keys.extent_key(InodeNumber(1 << 50), 0),
            EXTENTS.encode(ExtentRecord(100, w.stripes["third"], 0, 0)),
        ),
        {Kind.EXTENT, Kind.LIVE_BYTES},
    ),
    "extent of another block": Case(lambda w: edit_extent(w, "/linked", 0, block=0), {Kind.EXTENT}),
    "extent of a block that is not": Case(
        lambda w: edit_extent(w, "/linked", 0, block=50), {Kind.EXTENT}
    ),
    "extent longer than its block": Case(
        lambda w: (
            (
                edit_extent(w, "/dir/sub/deep", 0, length=200),
                set_attr(w, "/dir/sub/deep", size=200, allocated=200),
                edit_state(w, "third", live_bytes=200),
            )
        ),
        {Kind.EXTENT},
        lambda w: {w.inode_row("/dir/sub/deep")},
    ),
    "extent in a stripe that does not know the file": Case(
        lambda w: edit_extent(w, "/linked", 0, stripe=w.stripes["second"], block=0),
        {Kind.EXTENT, Kind.LIVE_BYTES},
        lambda w: plain_rows(w) | {extent_key(w, "/linked", 0), w.inode_row("/linked")},
    ),
    # --- stripes
    "live bytes": Case(lambda w: edit_state(w, "first", live_bytes=1), {Kind.LIVE_BYTES}),
    "born bytes": Case(lambda w: edit_state(w, "first", born_bytes=1), {Kind.LIVE_BYTES}),
    "unreferenced stripe": Case(unreferenced, {Kind.STRIPE_ROWS}, deep_is_gone),
    "unreferenced stripe without placement": Case(
        lambda w: (unreferenced(w), delete(w, keys.state_key(w.stripes["third"]))),
        {Kind.STRIPE_ROWS},
        deep_is_gone,
    ),
    "unreferenced stripe of which only the placement is left": Case(
        lambda w: (unreferenced(w), delete(w, keys.stripe_key(w.stripes["third"]))),
        {Kind.STRIPE_ROWS},
        deep_is_gone,
    ),
    "unreferenced unreadable stripe": Case(
        lambda w: (unreferenced(w), junk(w, keys.stripe_key(w.stripes["third"]))),
        {Kind.STRIPE_ROWS},
        deep_is_gone,
    ),
    "tombstone of a stripe in use": Case(
        lambda w: w.rows.__setitem__(
            keys.tombstone_key(w.stripes["first"]), PLACEMENTS.encode(Placement(()))
        ),
        {Kind.TOMBSTONE},
    ),
    "unreadable tombstone": Case(
        lambda w: junk(w, keys.tombstone_key(w.stripes["dead"])),
        {Kind.BAD_ROW},
        lambda w: {keys.tombstone_key(w.stripes["dead"])},
    ),
    # --- counters and the rest
    "inode counter that would repeat": Case(
        lambda w: w.rows.__setitem__(keys.NEXT_INODE, COUNTERS.encode(3)),
        {Kind.COUNTER},
        lambda w: {keys.NEXT_INODE},
    ),
    "epoch counter that would repeat": Case(
        lambda w: w.rows.__setitem__(keys.NEXT_EPOCH, COUNTERS.encode(1)), {Kind.COUNTER}
    ),
    "no epoch counter": Case(lambda w: delete(w, keys.NEXT_EPOCH), {Kind.COUNTER}),
    "unreadable node counter": Case(lambda w: junk(w, keys.NEXT_NODE), {Kind.COUNTER}),
    "unknown counter": Case(lambda w: w.rows.__setitem__(b"Cfoo", b"\x01"), {Kind.BAD_ROW}),
    "unknown table": Case(lambda w: w.rows.__setitem__(b"Zfoo", b"\x01"), {Kind.BAD_ROW}),
    "malformed key": Case(
        lambda w: w.rows.__setitem__(
            b"I\0\0", ATTRS.encode(ATTRS.decode(w.rows[w.inode_row("/")]))
        ),
        {Kind.BAD_ROW},
    ),
    "unreadable request": Case(
        lambda w: w.rows.__setitem__(keys.request_key(1), JUNK), {Kind.BAD_ROW}
    ),
    "unreadable session": Case(
        lambda w: w.rows.__setitem__(keys.session_key(1), JUNK), {Kind.BAD_ROW}
    ),
    "unreadable layout": Case(
        lambda w: w.rows.__setitem__(keys.layout_key(5), JUNK),  # type: ignore[arg-type]
        {Kind.LAYOUT},
    ),
}

BEFORE: dict[int, Rows] = {}


def entry_key_before(world: FsckWorld, name: bytes) -> bytes:
    """The key of a name of the root before the damage."""
    for key, raw in BEFORE[id(world)].items():
        if key[:1] == b"D" and keys.number_of(key) == 1 and DIRENTS.decode(raw).name == name:
            return key
    raise AssertionError(name)
