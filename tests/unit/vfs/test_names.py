"""Names through the vfs: open files without names, replacing, listings, lookup counts."""

from __future__ import annotations

import stat
from random import Random

import pytest
import trio
from trio.testing import MockClock

from rainfs.errors import Exists, NotFound
from rainfs.model import ROOT_INODE
from rainfs.vfs import acl
from rainfs.vfs.attributes import Change
from rainfs.vfs.names import RenameFlag
from rainfs.vfs.options import Caller
from tests.unit.vfs.rig import DIRECTORY, FILE, ROOT, STRIPE, Disk, Mount, assert_sound, mounted


async def names(mount: Mount, parent: int = ROOT_INODE, batch: int = 7) -> list[bytes]:
    """List a directory as a reader with a small buffer does."""
    handle = await mount.vfs.directories.open(parent)
    found: list[bytes] = []
    start = 0
    while entries := await mount.vfs.directories.page(handle, start):
        taken = entries[:batch]
        mount.vfs.directories.accepted(handle, entries, len(taken))
        found += [entry.name for entry in taken]
        for entry in taken:
            if entry.cookie > 2:
                mount.vfs.table.forget(entry.attr.inode, 1)
        start = taken[-1].cookie
    mount.vfs.directories.release(handle)
    return found


async def test_a_file_without_names_lives_until_it_is_closed(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"a" * STRIPE)
        await mount.vfs.files.fsync(handle)
        inode = await mount.inode(b"f")
        assert inode is not None
        await mount.unlink(b"f")
        assert await mount.inode(b"f") is None
        await mount.write(handle, 10, b"bb")
        assert await mount.read(handle, 9, 4) == b"abba"
        assert (await mount.vfs.attributes.get(inode.inode)).nlink == 0
        await mount.vfs.files.fsync(handle)
        mount.vfs.files.release(handle)
        mount.vfs.table.forget(inode.inode, 1)
        await trio.sleep(1)
        with pytest.raises(NotFound):
            await mount.vfs.attributes.get(inode.inode)
    await assert_sound(disk)


async def test_a_removed_file_is_known_until_the_kernel_forgets_it(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        mount.vfs.files.release(await mount.create(b"f"))
        inode = await mount.inode(b"f")
        assert inode is not None
        await mount.unlink(b"f")
        assert (await mount.vfs.attributes.get(inode.inode)).nlink == 0
        mount.vfs.table.forget(inode.inode, 1)
        with pytest.raises(NotFound):
            await mount.vfs.attributes.get(inode.inode)


async def test_bytes_of_a_removed_file_are_never_written(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"a" * 1000)
        mount.vfs.files.release(handle)
        await mount.unlink(b"f")
        assert mount.vfs.flusher.held == 0
        await trio.sleep(10)
        assert not any(node.calls("put") for node in disk.fleet.nodes)


async def test_an_orphan_of_a_killed_mount_is_freed_by_the_next(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk, close=False) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"a" * STRIPE)
        await mount.vfs.files.fsync(handle)
        number = (await mount.inode(b"f")).inode  # type: ignore[union-attr]
        await mount.unlink(b"f")
    async with mounted(disk) as mount:
        await trio.sleep(1)
        with pytest.raises(NotFound):
            await mount.vfs.attributes.get(number)
    await assert_sound(disk)


async def test_lookups_and_handles_leave_nothing_behind(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        table = mount.vfs.table
        for number in range(20):
            mount.vfs.files.release(await mount.create(b"f%d" % number))
        await mount.mkdir(b"d")
        for _ in range(3):
            assert await mount.vfs.names.lookup(ROOT_INODE, b"f3") is not None
        assert await mount.vfs.names.lookup(ROOT_INODE, b"absent") is None
        linked = await mount.inode(b"f3")
        assert linked is not None
        await mount.vfs.names.link(linked.inode, ROOT_INODE, b"g3")
        await mount.unlink(b"f4")
        await mount.rename(b"f5", b"f6")
        assert len(await names(mount)) == 2 + 20
        for inode, count in list(table.lookups.items()):
            table.forget(inode, count)
        assert not table.lookups
        assert not table.orphans
        assert len(mount.vfs.files) == len(mount.vfs.directories) == 0


async def test_replacing_a_file_commits_a_length_that_no_bytes_came_with(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"old")
        mount.vfs.files.release(handle)
    async with mounted(disk, close=False) as mount:
        handle = await mount.create(b"f.new")
        await mount.write(handle, 0, b"new")
        await mount.vfs.files.fsync(handle)
        mount.vfs.files.release(handle)
        await mount.truncate(b"f.new", 5)
        await mount.rename(b"f.new", b"f")
    async with mounted(disk) as mount:
        assert await mount.content(b"f") == b"new\0\0"
    await assert_sound(disk)


async def test_replacing_a_file_shows_old_or_new_bytes_after_a_crash(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"old")
        mount.vfs.files.release(handle)
    async with mounted(disk, close=False) as mount:
        handle = await mount.create(b"f.new")
        await mount.write(handle, 0, b"new")
        mount.vfs.files.release(handle)
        await mount.rename(b"f.new", b"f")
    async with mounted(disk) as mount:
        assert await mount.content(b"f") == b"new"
    async with mounted(disk, close=False) as mount:
        handle = await mount.create(b"f.new")
        await mount.write(handle, 0, b"third")
        await mount.vfs.flusher.durable()
        await mount.rename(b"f.new", b"f")
        disk.engine.power_cut()
    async with mounted(disk) as mount:
        assert await mount.content(b"f") == b"new"
    await assert_sound(disk)


async def test_exchange_and_noreplace(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        for name in (b"a", b"b"):
            handle = await mount.create(name)
            await mount.write(handle, 0, name)
            mount.vfs.files.release(handle)
        with pytest.raises(Exists):
            await mount.rename(b"a", b"b", RenameFlag.NOREPLACE)
        await mount.rename(b"a", b"b", RenameFlag.EXCHANGE)
        assert await mount.content(b"a") == b"b"
        assert await mount.content(b"b") == b"a"
        await mount.mkdir(b"d")
        directory = await mount.inode(b"d")
        assert directory is not None
        await mount.mkdir(b"e", parent=directory.inode)
        await mount.vfs.names.rename(ROOT_INODE, b"a", directory.inode, b"e", RenameFlag.EXCHANGE)
        moved = await mount.inode(b"a")
        assert moved is not None
        assert moved.is_dir
        root = await mount.vfs.attributes.get(ROOT_INODE)
        assert root.nlink == 4
        assert (await mount.vfs.attributes.get(directory.inode)).nlink == 2


async def test_a_listing_holds_every_stable_name_once_while_others_change(
    autojump_clock: MockClock,
) -> None:
    seed = 20260
    print("seed", seed)
    random = Random(seed)
    disk = Disk()
    async with mounted(disk) as mount:
        stable = {b"stable%d" % number for number in range(150)}
        for name in stable:
            mount.vfs.files.release(await mount.create(name))
        handle = await mount.vfs.directories.open(ROOT_INODE)
        found: list[bytes] = []
        start, made = 0, 0
        while entries := await mount.vfs.directories.page(handle, start):
            count = random.randint(1, 9)
            mount.vfs.directories.accepted(handle, entries, min(count, len(entries)))
            found += [entry.name for entry in entries[:count]]
            start = entries[:count][-1].cookie
            for _ in range(3):
                mount.vfs.files.release(await mount.create(b"other%d" % made))
                made += 1
                victim = random.randrange(made)
                if await mount.inode(b"other%d" % victim) is not None:
                    await mount.unlink(b"other%d" % victim)
        assert len(found) == len(set(found))
        assert stable <= set(found)
        assert found[:2] == [b".", b".."]


async def test_a_listing_shows_what_is_true_when_it_is_read(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        for number in range(10):
            mount.vfs.files.release(await mount.create(b"f%d" % number))
        handle = await mount.vfs.directories.open(ROOT_INODE)
        entries = await mount.vfs.directories.page(handle, 0)
        mount.vfs.directories.accepted(handle, entries, 4)
        gone, changed = entries[4].name, entries[5]
        await mount.unlink(gone)
        await mount.vfs.attributes.set(changed.attr.inode, Change(mode=0o600))
        rest = await mount.vfs.directories.page(handle, entries[3].cookie)
        assert gone not in [entry.name for entry in rest]
        again = next(entry for entry in rest if entry.name == changed.name)
        current = mount.vfs.table.peek(again.attr.inode) or again.attr
        assert stat.S_IMODE(current.mode) == 0o600


async def test_directories_times_and_links_follow_their_entries(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        handle = await mount.vfs.directories.open(ROOT_INODE)
        await mount.vfs.directories.page(handle, 0)
        before = await mount.vfs.attributes.get(ROOT_INODE)
        mtime, nlink = before.mtime_ns, before.nlink
        await mount.mkdir(b"d")
        after = await mount.vfs.attributes.get(ROOT_INODE)
        assert after.mtime_ns > mtime
        assert after.nlink == nlink + 1
        await mount.vfs.attributes.store_access_times()
        last = await mount.vfs.attributes.get(ROOT_INODE)
        assert (last.mtime_ns, last.nlink) == (after.mtime_ns, after.nlink)


async def test_the_umask_applies_unless_a_default_list_takes_its_place(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    careful = Caller(0, 0, 0o077)
    default = acl.build(
        (
            acl.Entry(acl.USER_OBJ, 7, acl.UNDEFINED_ID),
            acl.Entry(acl.USER, 6, 1000),
            acl.Entry(acl.GROUP_OBJ, 5, acl.UNDEFINED_ID),
            acl.Entry(acl.MASK, 7, acl.UNDEFINED_ID),
            acl.Entry(acl.OTHER, 4, acl.UNDEFINED_ID),
        )
    )
    async with mounted(disk) as mount:
        made = await mount.vfs.names.make(ROOT_INODE, b"plain", FILE, careful)
        assert stat.S_IMODE(made.mode) == 0o600
        directory = await mount.vfs.names.make(ROOT_INODE, b"d", DIRECTORY, ROOT)
        await mount.vfs.attributes.setxattr(directory, acl.DEFAULT, default)
        file = await mount.vfs.names.make(directory.inode, b"f", FILE, careful)
        assert stat.S_IMODE(file.mode) == 0o664
        inherited = acl.parse(await mount.vfs.attributes.getxattr(file, acl.ACCESS))
        assert acl.Entry(acl.USER, 6, 1000) in inherited
        assert acl.Entry(acl.MASK, 6, acl.UNDEFINED_ID) in inherited
        below = await mount.vfs.names.make(directory.inode, b"e", DIRECTORY, careful)
        assert await mount.vfs.attributes.getxattr(below, acl.DEFAULT) == default
        await mount.vfs.attributes.set(file.inode, Change(mode=0o640))
        changed = acl.parse(await mount.vfs.attributes.getxattr(file, acl.ACCESS))
        assert acl.Entry(acl.MASK, 4, acl.UNDEFINED_ID) in changed
        assert acl.mode_of(changed, 0) == 0o640
        await mount.vfs.attributes.setxattr(directory, acl.DEFAULT, acl.build(()))
        file = await mount.vfs.names.make(directory.inode, b"g", FILE, careful)
        assert stat.S_IMODE(file.mode) == 0o600
        assert await mount.vfs.attributes.listxattr(file) == []


async def test_an_access_list_that_mode_bits_can_say_becomes_mode_bits(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        file = await mount.vfs.names.make(ROOT_INODE, b"f", FILE, ROOT)
        minimal = acl.build(
            (
                acl.Entry(acl.USER_OBJ, 7, acl.UNDEFINED_ID),
                acl.Entry(acl.GROUP_OBJ, 1, acl.UNDEFINED_ID),
                acl.Entry(acl.OTHER, 0, acl.UNDEFINED_ID),
            )
        )
        await mount.vfs.attributes.setxattr(file, acl.ACCESS, minimal)
        file = await mount.vfs.attributes.get(file.inode)
        assert stat.S_IMODE(file.mode) == 0o710
        assert await mount.vfs.attributes.listxattr(file) == []


async def test_the_table_of_idle_inodes_is_bounded(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        mount.vfs.table._max_live = 50
        for number in range(200):
            mount.vfs.files.release(await mount.create(b"f%d" % number))
        assert len(mount.vfs.table) <= 60
        assert len(mount.vfs.table.lookups) == 200


async def test_directories_know_their_times_and_links_after_every_move(
    autojump_clock: MockClock,
) -> None:
    async with mounted(Disk()) as mount:
        vfs = mount.vfs
        one, two = await mount.mkdir(b"one"), await mount.mkdir(b"two")
        for name in (b"a", b"b", b"c"):
            vfs.files.release(await mount.create(name, parent=one))
        await mount.mkdir(b"sub", parent=one)

        async def assert_known() -> None:
            for number in (one, two):
                known, stored = vfs.table.peek(number), await vfs._namespace.getattr(number)
                assert known is not None
                known = await vfs.attributes.get(number)
                assert (known.nlink, known.mtime_ns, known.ctime_ns) == (
                    stored.nlink,
                    stored.mtime_ns,
                    stored.ctime_ns,
                )

        await assert_known()
        for name, to, new_name in (
            (b"a", one, b"a2"),
            (b"a2", one, b"b"),
            (b"b", two, b"b"),
            (b"sub", two, b"sub"),
            (b"c", one, b"c"),
        ):
            await vfs.names.rename(one, name, to, new_name, RenameFlag.NONE)
            await assert_known()
        await vfs.names.rename(two, b"sub", one, b"c", RenameFlag.EXCHANGE)
        await assert_known()


async def test_an_inode_known_from_a_listing_is_plain_until_it_gets_an_attribute(
    autojump_clock: MockClock,
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        for name in (b"plain", b"marked"):
            mount.vfs.files.release(await mount.create(name))
        marked = await mount.inode(b"marked")
        assert marked is not None
        await mount.vfs.attributes.setxattr(marked, b"user.mark", b"1")
    async with mounted(disk) as mount:
        vfs, table = mount.vfs, mount.vfs.table
        handle = await vfs.directories.open(ROOT_INODE)
        entries = await vfs.directories.page(handle, 0)
        vfs.directories.accepted(handle, entries, len(entries))
        number = {entry.name: entry.attr.inode for entry in entries}
        assert table.peek(number[b"plain"]) is None, "a listing brings nothing into memory"
        assert table.is_plain(number[b"plain"])
        assert not table.is_plain(number[b"marked"])
        inode = await vfs.attributes.get(number[b"plain"])
        await vfs.attributes.setxattr(inode, b"user.mark", b"1")
        assert not table.is_plain(inode.inode)
        table._live.pop(inode.inode)  # Evicted.
        assert not table.is_plain(inode.inode)
        for listed in number.values():
            table.forget(listed, 1)
        assert not table._plain
        vfs.directories.release(handle)
