"""The rules of rename(2) and renameat2(2) inside one transaction.

Owns replacing, exchanging, and the parents and link counts of directories that move.  Invariants:
the tree stays a tree (no directory moves below itself); renaming a name to another name of the same
inode does nothing.
"""

from __future__ import annotations

import enum
import stat
from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from rainfs.errors import (
    Exists,
    InvalidArgument,
    IsDirectory,
    NotDirectory,
    NotEmpty,
    NotFound,
    TooManyLinks,
)
from rainfs.meta.directory import Directory, check_name
from rainfs.meta.engine import Reader, Transaction
from rainfs.meta.inodes import (
    Held,
    load_attr,
    load_directory,
    load_open_directory,
    store_attr,
    store_unlinked,
)
from rainfs.meta.records import Dirent
from rainfs.meta.sessions import Session
from rainfs.model import ROOT_INODE, Attr, InodeNumber

MAX_DEPTH = 1_000_000
"""Directories on a way to the root; more than that is a circle, which is damage."""


class RenameFlag(enum.IntFlag):
    """Flags of renameat2, with its values."""

    NONE = 0
    NOREPLACE = 1
    EXCHANGE = 2


Unready = Callable[[InodeNumber], bool]
"""Whether an inode must not take another's name yet: its bytes are not committed."""


class Renamed(NamedTuple):
    """What a rename did."""

    moved: Attr
    """The inode that has the new name now."""
    replaced: Attr | None
    """The inode that had it before: with one name less, or, exchanged, with the old name."""
    done: bool = True
    """Whether anything was changed."""
    unready: bool = False
    """Nothing was, because what is to take the name was not ready."""


class Move(NamedTuple):
    """A request."""

    parent: InodeNumber
    name: bytes
    new_parent: InodeNumber
    new_name: bytes
    flags: RenameFlag
    now_ns: int


def check(move: Move) -> None:
    """Raises: InvalidArgument, NameTooLong for what is wrong whatever the tree holds."""
    known = RenameFlag.NOREPLACE | RenameFlag.EXCHANGE
    if int(move.flags) & ~int(known) or move.flags == known:
        raise InvalidArgument(f"rename flags {int(move.flags):#x}")
    for name in (move.name, move.new_name):
        check_name(name)
        if name in (b".", b".."):
            raise InvalidArgument(f"{name!r} cannot be renamed")


async def apply(
    transaction: Transaction,
    directory: Directory,
    session: Session,
    move: Move,
    max_links: int,
    held: Held | None,
    unready: Unready | None,
) -> Renamed:
    """Carry out a checked request.  Raises: as `Namespace.rename`."""
    old_dir = await load_directory(transaction, move.parent)
    across = move.parent != move.new_parent
    new_dir = await load_open_directory(transaction, move.new_parent) if across else old_dir
    slot, entry = await directory.find(transaction, move.parent, move.name)
    new_slot, target = await directory.probe(transaction, move.new_parent, move.new_name)
    exchange = move.flags == RenameFlag.EXCHANGE
    if target is None and exchange:
        raise NotFound(f"no {move.new_name!r} in directory {move.new_parent}")
    if target is not None and move.flags == RenameFlag.NOREPLACE:
        raise Exists(f"{move.new_name!r} exists in directory {move.new_parent}")
    moved = await load_attr(transaction, entry.inode)
    if target is not None and target.inode == entry.inode:
        return Renamed(moved, None, done=False)
    if target is not None and unready is not None and unready(entry.inode):
        return Renamed(moved, None, done=False, unready=True)
    if across and entry.type == stat.S_IFDIR:
        await _check_not_below(transaction, move.new_parent, entry.inode)
    if across and exchange and target is not None and target.type == stat.S_IFDIR:
        await _check_not_below(transaction, move.parent, target.inode)
    links = _Links(old_dir, new_dir, move.now_ns)
    if exchange and target is not None:
        directory.put(transaction, move.new_parent, new_slot, replace(entry, name=target.name))
        directory.put(transaction, move.parent, slot, replace(target, name=entry.name))
        links.move(entry.type, target.type)
        links.store(transaction, max_links)
        other = _moved(await load_attr(transaction, target.inode), move.parent, move.now_ns)
        moved = _moved(moved, move.new_parent, move.now_ns)
        store_attr(transaction, other)
        store_attr(transaction, moved)
        return Renamed(moved, other)

    replaced: Attr | None = None
    if target is not None:
        replaced = await _check_replaceable(transaction, directory, entry, target)
        replaced = _without_name(replaced, move.now_ns)
    directory.remove(transaction, move.parent, slot)
    directory.put(transaction, move.new_parent, new_slot, replace(entry, name=move.new_name))
    links.move(entry.type, None)
    if target is not None and target.type == stat.S_IFDIR:
        links.removed_subdirectory()
    links.store(transaction, max_links)
    moved = _moved(moved, move.new_parent, move.now_ns)
    store_attr(transaction, moved)
    if replaced is not None:
        replaced = await store_unlinked(transaction, session, replaced, held)
    return Renamed(moved, replaced)


class _Links:
    """The two parents' link counts and times while a rename is worked out."""

    def __init__(self, old: Attr, new: Attr, now_ns: int) -> None:
        self._old, self._new, self._now_ns = old, new, now_ns
        self._old_change = self._new_change = 0

    def move(self, forth: int, back: int | None) -> None:
        """Something of type `forth` goes to the new parent, of type `back` to the old one."""
        change = (forth == stat.S_IFDIR) - (back == stat.S_IFDIR)
        self._old_change -= change
        self._new_change += change

    def removed_subdirectory(self) -> None:
        """The new parent lost a directory."""
        self._new_change -= 1

    def store(self, transaction: Transaction, max_links: int) -> None:
        """Write both.  Raises: TooManyLinks."""
        if self._old.inode == self._new.inode:
            changes = [(self._new, self._old_change + self._new_change)]
        else:
            changes = [(self._old, self._old_change), (self._new, self._new_change)]
        for attr, change in changes:
            nlink = attr.nlink + change
            if change > 0 and nlink > max_links:
                raise TooManyLinks(f"directory {attr.inode} has too many subdirectories")
            now_ns = self._now_ns
            store_attr(transaction, replace(attr, nlink=nlink, mtime_ns=now_ns, ctime_ns=now_ns))


def _moved(attr: Attr, parent: InodeNumber, now_ns: int) -> Attr:
    if stat.S_ISDIR(attr.mode):
        return replace(attr, parent=parent, ctime_ns=now_ns)
    return replace(attr, ctime_ns=now_ns)


def _without_name(attr: Attr, now_ns: int) -> Attr:
    nlink = 0 if stat.S_ISDIR(attr.mode) else attr.nlink - 1
    return replace(attr, nlink=nlink, ctime_ns=now_ns)


async def _check_replaceable(
    reader: Reader, directory: Directory, entry: Dirent, target: Dirent
) -> Attr:
    """Return what is to be replaced.  Raises: NotDirectory, IsDirectory, NotEmpty."""
    if entry.type == stat.S_IFDIR:
        if target.type != stat.S_IFDIR:
            raise NotDirectory(f"{target.name!r} is not a directory")
        if not await directory.is_empty(reader, target.inode):
            raise NotEmpty(f"{target.name!r} is not empty")
    elif target.type == stat.S_IFDIR:
        raise IsDirectory(f"{target.name!r} is a directory")
    return await load_attr(reader, target.inode)


async def _check_not_below(reader: Reader, inode: InodeNumber, top: InodeNumber) -> None:
    """Raises: InvalidArgument if directory `inode` is `top` or lies below it."""
    for _ in range(MAX_DEPTH):
        if inode == top:
            raise InvalidArgument("a directory cannot move below itself")
        if inode == ROOT_INODE:
            return
        inode = (await load_directory(reader, inode)).parent
    raise InvalidArgument("the tree has a circle")
