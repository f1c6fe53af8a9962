"""rename(2) and renameat2(2)."""

from __future__ import annotations

import pytest

from rainfs.errors import (
    Exists,
    InvalidArgument,
    IsDirectory,
    NameTooLong,
    NotDirectory,
    NotEmpty,
    NotFound,
    TooManyLinks,
)
from rainfs.meta.namespace import RenameFlag
from rainfs.meta.renaming import Renamed
from rainfs.model import ROOT_INODE, InodeNumber
from tests.unit.meta.rig import Rig, open_rig


async def move(
    rig: Rig,
    name: bytes,
    new_name: bytes,
    parent: InodeNumber = ROOT_INODE,
    new_parent: InodeNumber | None = None,
    flags: RenameFlag = RenameFlag.NONE,
) -> Renamed:
    return await rig.names.rename(
        parent,
        name,
        parent if new_parent is None else new_parent,
        new_name,
        flags=flags,
        now_ns=rig.tick(),
    )


async def test_a_name_moves_and_times_follow() -> None:
    async with open_rig() as rig:
        file = await rig.make(b"old")
        other = await rig.mkdir(b"other")
        moved, replaced, *_ = await move(rig, b"old", b"new", new_parent=other.inode)
        assert replaced is None
        assert (moved.inode, moved.ctime_ns, moved.mtime_ns) == (
            file.inode,
            rig.now_ns,
            file.mtime_ns,
        )
        for inode in (ROOT_INODE, other.inode):
            attr = await rig.names.getattr(inode)
            assert (attr.mtime_ns, attr.ctime_ns) == (rig.now_ns, rig.now_ns)
        with pytest.raises(NotFound):
            await rig.names.lookup(ROOT_INODE, b"old")
        assert await rig.names.lookup(other.inode, b"new") == moved


async def test_a_replaced_file_becomes_an_orphan() -> None:
    async with open_rig() as rig:
        new = await rig.make(b"new")
        old = await rig.make(b"old")
        moved, replaced, *_ = await move(rig, b"new", b"old")
        assert moved.inode == new.inode
        assert replaced is not None
        assert (replaced.inode, replaced.nlink, replaced.ctime_ns) == (old.inode, 0, rig.now_ns)
        assert (await rig.names.getattr(old.inode)).nlink == 0
        assert (await rig.names.lookup(ROOT_INODE, b"old")).inode == new.inode


async def test_a_replaced_file_with_another_name_keeps_it() -> None:
    async with open_rig() as rig:
        old = await rig.make(b"old")
        await rig.names.link(old.inode, ROOT_INODE, b"other", now_ns=1)
        await rig.make(b"new")
        replaced = (await move(rig, b"new", b"old")).replaced
        assert replaced is not None
        assert replaced.nlink == 1
        assert (await rig.names.lookup(ROOT_INODE, b"other")).inode == old.inode


async def test_a_directory_replaces_only_an_empty_directory() -> None:
    async with open_rig() as rig:
        await rig.mkdir(b"a")
        full = await rig.mkdir(b"full")
        await rig.make(b"file", parent=full.inode)
        empty = await rig.mkdir(b"empty")
        with pytest.raises(NotEmpty):
            await move(rig, b"a", b"full")
        with pytest.raises(NotDirectory):
            await move(rig, b"a", b"file", new_parent=full.inode)
        with pytest.raises(IsDirectory):
            await move(rig, b"file", b"empty", full.inode, ROOT_INODE)
        with pytest.raises(IsDirectory):
            await move(rig, b"file", b"full", full.inode, ROOT_INODE)
        assert await rig.nlink(ROOT_INODE) == 5
        moved, replaced, *_ = await move(rig, b"full", b"empty")
        assert replaced is not None
        assert (replaced.inode, replaced.nlink) == (empty.inode, 0)
        assert moved.inode == full.inode
        assert await rig.nlink(ROOT_INODE) == 4


async def test_a_moved_directory_knows_its_new_parent() -> None:
    async with open_rig() as rig:
        a, b = await rig.mkdir(b"a"), await rig.mkdir(b"b")
        child = await rig.mkdir(b"child", a.inode)
        moved, *_ = await move(rig, b"child", b"kid", a.inode, b.inode)
        assert moved.parent == b.inode
        assert (await rig.names.lookup(child.inode, b"..")).inode == b.inode
        assert (await rig.nlink(a.inode), await rig.nlink(b.inode)) == (2, 3)


async def test_a_moved_directory_may_replace_one_elsewhere() -> None:
    async with open_rig() as rig:
        a, b = await rig.mkdir(b"a"), await rig.mkdir(b"b")
        await rig.mkdir(b"child", a.inode)
        await rig.mkdir(b"child", b.inode)
        await move(rig, b"child", b"child", a.inode, b.inode)
        assert (await rig.nlink(a.inode), await rig.nlink(b.inode)) == (2, 3)


async def test_no_directory_moves_below_itself() -> None:
    async with open_rig() as rig:
        a = await rig.mkdir(b"a")
        b = await rig.mkdir(b"b", a.inode)
        c = await rig.mkdir(b"c", b.inode)
        for below in (a.inode, b.inode, c.inode):
            with pytest.raises(InvalidArgument):
                await move(rig, b"a", b"x", new_parent=below)
        with pytest.raises(NotEmpty):
            await move(rig, b"b", b"a", a.inode, ROOT_INODE)
        with pytest.raises(InvalidArgument):
            await move(rig, b"c", b"a", b.inode, ROOT_INODE, RenameFlag.EXCHANGE)
        with pytest.raises(InvalidArgument):
            await move(rig, b"a", b"c", ROOT_INODE, b.inode, RenameFlag.EXCHANGE)


@pytest.mark.parametrize("flags", [RenameFlag.NONE, RenameFlag.EXCHANGE])
async def test_renaming_onto_the_same_inode_does_nothing(flags: RenameFlag) -> None:
    async with open_rig() as rig:
        file = await rig.make(b"one")
        linked = await rig.names.link(file.inode, ROOT_INODE, b"two", now_ns=rig.tick())
        for new_name in (b"one", b"two"):
            renamed = await move(rig, b"one", new_name, flags=flags)
            assert renamed == Renamed(linked, None, done=False)
        for name in (b"one", b"two"):
            assert await rig.names.lookup(ROOT_INODE, name) == linked


async def test_noreplace_never_replaces() -> None:
    async with open_rig() as rig:
        file = await rig.make(b"one")
        await rig.make(b"two")
        for target in (b"two", b"one"):
            with pytest.raises(Exists):
                await move(rig, b"one", target, flags=RenameFlag.NOREPLACE)
        moved, *_ = await move(rig, b"one", b"three", flags=RenameFlag.NOREPLACE)
        assert moved.inode == file.inode


async def test_exchange_swaps_a_file_and_a_directory_across_directories() -> None:
    async with open_rig() as rig:
        a, b = await rig.mkdir(b"a"), await rig.mkdir(b"b")
        file = await rig.make(b"file", parent=a.inode)
        child = await rig.mkdir(b"child", b.inode)
        await rig.make(b"inside", parent=child.inode)
        moved, other, *_ = await move(rig, b"file", b"child", a.inode, b.inode, RenameFlag.EXCHANGE)
        assert other is not None
        assert (moved.inode, other.inode, other.parent) == (file.inode, child.inode, a.inode)
        assert (moved.ctime_ns, other.ctime_ns) == (rig.now_ns, rig.now_ns)
        assert (await rig.nlink(a.inode), await rig.nlink(b.inode)) == (3, 2)
        assert await rig.names.lookup(b.inode, b"child") == moved
        assert await rig.names.lookup(a.inode, b"file") == other
        listed = await rig.names.readdir(a.inode, 0, 10)
        assert [entry.name for entry in listed] == [b"file"]


async def test_exchange_needs_both_names() -> None:
    async with open_rig() as rig:
        await rig.make(b"one")
        for names in ((b"one", b"two"), (b"two", b"one")):
            with pytest.raises(NotFound):
                await move(rig, *names, flags=RenameFlag.EXCHANGE)


async def test_impossible_requests_are_refused() -> None:
    async with open_rig() as rig:
        await rig.make(b"one")
        directory = await rig.mkdir(b"d")
        both = RenameFlag.NOREPLACE | RenameFlag.EXCHANGE
        for flags in (both, RenameFlag(4)):
            with pytest.raises(InvalidArgument):
                await move(rig, b"one", b"two", flags=flags)
        for names in ((b".", b"x"), (b"..", b"x"), (b"one", b"."), (b"one", b"..")):
            with pytest.raises(InvalidArgument):
                await move(rig, *names, parent=directory.inode)
        with pytest.raises(NameTooLong):
            await move(rig, b"one", b"x" * 256)
        with pytest.raises(NotFound):
            await move(rig, b"none", b"x")
        file = await rig.names.lookup(ROOT_INODE, b"one")
        with pytest.raises(NotDirectory):
            await move(rig, b"one", b"x", new_parent=file.inode)
        with pytest.raises(NotDirectory):
            await move(rig, b"x", b"y", parent=file.inode, new_parent=ROOT_INODE)


async def test_a_directory_full_of_links_takes_no_directory() -> None:
    async with open_rig(max_links=3) as rig:
        a = await rig.mkdir(b"a")
        await rig.mkdir(b"b", a.inode)
        c = await rig.mkdir(b"c", (await rig.names.lookup(a.inode, b"b")).inode)
        with pytest.raises(TooManyLinks):
            await move(rig, b"c", b"c", (await rig.names.lookup(a.inode, b"b")).inode, a.inode)
        assert (await rig.names.getattr(c.inode)).parent != a.inode


async def test_an_unheld_replaced_file_is_freed_at_once() -> None:
    async with open_rig() as rig:
        old = await rig.make(b"old")
        await rig.write((old.inode, 0, 4096))
        await rig.make(b"new")
        await rig.names.rename(
            ROOT_INODE, b"new", ROOT_INODE, b"old", now_ns=1, held=lambda _: False
        )
        with pytest.raises(NotFound):
            await rig.names.getattr(old.inode)


async def test_a_name_is_not_replaced_by_what_is_not_ready() -> None:
    async with open_rig() as rig:
        file, old = await rig.make(b"file"), await rig.make(b"old")

        async def rename(new_name: bytes, *, unready: bool) -> Renamed:
            return await rig.names.rename(
                ROOT_INODE,
                b"file",
                ROOT_INODE,
                new_name,
                now_ns=rig.tick(),
                unready=lambda inode: unready and inode == file.inode,
            )

        assert await rename(b"old", unready=True) == Renamed(file, None, done=False, unready=True)
        assert await rig.names.lookup(ROOT_INODE, b"old") == old
        assert (await rename(b"old", unready=False)).replaced is not None
        assert await rig.names.lookup(ROOT_INODE, b"old") != old
        await rig.make(b"file")
        assert (await rename(b"free", unready=True)).done, "nothing is lost at a new name"
