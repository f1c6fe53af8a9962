"""The rules of POSIX for names, links, attributes and listings."""

from __future__ import annotations

import stat

import pytest
import trio

from rainfs.errors import (
    Exists,
    FileTooLarge,
    InvalidArgument,
    IsDirectory,
    NameTooLong,
    NoSpace,
    NotDirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    ReadOnly,
    SessionLost,
    TooManyLinks,
)
from rainfs.meta.attr_change import AttrChange
from rainfs.meta.directory import PROBE_SLOTS
from rainfs.meta.memory import MemoryEngine
from rainfs.meta.namespace import Namespace
from rainfs.meta.sessions import Session
from rainfs.model import MAX_FILE_BYTES, ROOT_INODE
from tests.unit.meta.rig import DIRECTORY, FILE, SYMLINK, Rig, open_rig


async def names_of(rig: Rig, inode: int = ROOT_INODE, page: int = 7) -> list[bytes]:
    found: list[bytes] = []
    after = 0
    while entries := await rig.names.readdir(inode, after, page):
        found += [entry.name for entry in entries]
        after = entries[-1].cookie
    return found


async def test_a_new_file_is_found_by_its_name() -> None:
    async with open_rig() as rig:
        made = await rig.names.make(
            ROOT_INODE, b"file", mode=stat.S_IFREG | 0o4640, uid=5, gid=6, now_ns=77
        )
        assert (made.mode, made.uid, made.gid) == (stat.S_IFREG | 0o4640, 5, 6)
        assert (made.nlink, made.size, made.allocated) == (1, 0, 0)
        assert (made.atime_ns, made.mtime_ns, made.ctime_ns) == (77, 77, 77)
        assert await rig.names.lookup(ROOT_INODE, b"file") == made
        assert await rig.names.getattr(made.inode) == made
        root = await rig.names.getattr(ROOT_INODE)
        assert (root.mtime_ns, root.ctime_ns, root.nlink) == (77, 77, 2)


async def test_dot_and_dotdot_are_looked_up_and_never_made_or_removed() -> None:
    async with open_rig() as rig:
        outer = await rig.mkdir(b"outer")
        inner = await rig.mkdir(b"inner", outer.inode)
        assert (await rig.names.lookup(inner.inode, b".")).inode == inner.inode
        assert (await rig.names.lookup(inner.inode, b"..")).inode == outer.inode
        assert (await rig.names.lookup(ROOT_INODE, b"..")).inode == ROOT_INODE
        for name in (b".", b".."):
            with pytest.raises(Exists):
                await rig.make(name)
            with pytest.raises(IsDirectory):
                await rig.names.unlink(outer.inode, name, now_ns=1)
        with pytest.raises(InvalidArgument):
            await rig.names.rmdir(outer.inode, b".", now_ns=1)
        with pytest.raises(NotEmpty):
            await rig.names.rmdir(outer.inode, b"..", now_ns=1)


@pytest.mark.parametrize("name", [b"", b"a/b", b"a\0b"])
async def test_impossible_names_are_refused(name: bytes) -> None:
    async with open_rig() as rig:
        with pytest.raises(InvalidArgument):
            await rig.make(name)


async def test_names_hold_any_other_byte_up_to_255() -> None:
    async with open_rig() as rig:
        odd = bytes(byte for byte in range(1, 256) if byte != ord("/"))
        for name in (odd, b"\xff" * 255, b"x", b" ", b"\n"):
            made = await rig.make(name)
            assert (await rig.names.lookup(ROOT_INODE, name)).inode == made.inode
        for call in (rig.make(b"x" * 256), rig.names.lookup(ROOT_INODE, b"x" * 256)):
            with pytest.raises(NameTooLong):
                await call


async def test_a_taken_name_is_not_made_again() -> None:
    async with open_rig() as rig:
        file = await rig.make(b"name")
        for mode in (FILE, DIRECTORY):
            with pytest.raises(Exists):
                await rig.make(b"name", mode)
        with pytest.raises(Exists):
            await rig.names.link(file.inode, ROOT_INODE, b"name", now_ns=1)


async def test_only_directories_have_entries() -> None:
    async with open_rig() as rig:
        file = await rig.make(b"file")
        calls = (
            rig.make(b"x", parent=file.inode),
            rig.names.lookup(file.inode, b"x"),
            rig.names.unlink(file.inode, b"x", now_ns=1),
            rig.names.rmdir(file.inode, b"x", now_ns=1),
            rig.names.readdir(file.inode, 0, 10),
            rig.names.link(file.inode, file.inode, b"x", now_ns=1),
        )
        for call in calls:
            with pytest.raises(NotDirectory):
                await call


async def test_what_is_not_there_is_not_found() -> None:
    async with open_rig() as rig:
        calls = (
            rig.names.getattr(99),
            rig.names.lookup(ROOT_INODE, b"x"),
            rig.names.lookup(99, b"x"),
            rig.make(b"x", parent=99),
            rig.names.unlink(ROOT_INODE, b"x", now_ns=1),
            rig.names.rmdir(ROOT_INODE, b"x", now_ns=1),
            rig.names.readdir(99, 0, 1),
            rig.names.setattr(99, AttrChange(uid=1)),
            rig.names.link(99, ROOT_INODE, b"x", now_ns=1),
        )
        for call in calls:
            with pytest.raises(NotFound):
                await call


async def test_subdirectories_count_as_links_of_their_parent() -> None:
    async with open_rig() as rig:
        outer = await rig.mkdir(b"outer")
        assert outer.nlink == 2
        await rig.mkdir(b"one", outer.inode)
        await rig.mkdir(b"two", outer.inode)
        await rig.make(b"file", parent=outer.inode)
        assert await rig.nlink(outer.inode) == 4
        assert await rig.nlink(ROOT_INODE) == 3
        now_ns = rig.tick()
        removed = await rig.names.rmdir(outer.inode, b"one", now_ns=now_ns)
        assert (removed.nlink, removed.ctime_ns) == (0, now_ns)
        after = await rig.names.getattr(outer.inode)
        assert (after.nlink, after.mtime_ns, after.ctime_ns) == (3, now_ns, now_ns)


async def test_a_directory_with_entries_is_not_removed() -> None:
    async with open_rig() as rig:
        outer = await rig.mkdir(b"outer")
        await rig.make(b"file", parent=outer.inode)
        with pytest.raises(NotEmpty):
            await rig.names.rmdir(ROOT_INODE, b"outer", now_ns=1)
        with pytest.raises(NotDirectory):
            await rig.names.rmdir(outer.inode, b"file", now_ns=1)
        with pytest.raises(IsDirectory):
            await rig.names.unlink(ROOT_INODE, b"outer", now_ns=1)


async def test_a_removed_directory_takes_no_entries_but_can_be_listed() -> None:
    async with open_rig() as rig:
        gone = await rig.mkdir(b"gone")
        file = await rig.make(b"file")
        await rig.names.rmdir(ROOT_INODE, b"gone", now_ns=1)
        for call in (
            rig.make(b"x", parent=gone.inode),
            rig.names.link(file.inode, gone.inode, b"x", now_ns=1),
            rig.names.rename(ROOT_INODE, b"file", gone.inode, b"x", now_ns=1),
        ):
            with pytest.raises(NotFound):
                await call
        assert await rig.names.readdir(gone.inode, 0, 10) == []
        assert (await rig.names.getattr(gone.inode)).nlink == 0


async def test_links_share_the_inode_and_its_last_name_makes_an_orphan() -> None:
    async with open_rig() as rig:
        file = await rig.make(b"one")
        now_ns = rig.tick()
        linked = await rig.names.link(file.inode, ROOT_INODE, b"two", now_ns=now_ns)
        assert (linked.inode, linked.nlink, linked.ctime_ns) == (file.inode, 2, now_ns)
        assert linked.mtime_ns == file.mtime_ns
        assert (await rig.names.getattr(ROOT_INODE)).mtime_ns == now_ns
        now_ns = rig.tick()
        left = await rig.names.unlink(ROOT_INODE, b"one", now_ns=now_ns)
        assert (left.nlink, left.ctime_ns) == (1, now_ns)
        assert (await rig.names.unlink(ROOT_INODE, b"two", now_ns=1)).nlink == 0
        assert (await rig.names.getattr(file.inode)).nlink == 0
        with pytest.raises(NotFound):
            await rig.names.link(file.inode, ROOT_INODE, b"three", now_ns=1)
        await rig.extents.reap(file.inode)
        with pytest.raises(NotFound):
            await rig.names.getattr(file.inode)


async def test_a_directory_cannot_be_linked() -> None:
    async with open_rig() as rig:
        directory = await rig.mkdir(b"d")
        with pytest.raises(NotPermitted):
            await rig.names.link(directory.inode, ROOT_INODE, b"e", now_ns=1)


async def test_an_unheld_small_file_is_freed_with_its_last_name() -> None:
    async with open_rig() as rig:
        file = await rig.make(b"file")
        await rig.write((file.inode, 0, 4096))
        await rig.names.setxattr(file.inode, b"user.a", b"1")
        gone = await rig.names.unlink(ROOT_INODE, b"file", now_ns=1, held=lambda _: False)
        assert (gone.nlink, gone.allocated, gone.has_xattrs) == (0, 0, False)
        with pytest.raises(NotFound):
            await rig.names.getattr(file.inode)
        kept = await rig.make(b"kept")
        await rig.names.unlink(ROOT_INODE, b"kept", now_ns=1, held=lambda _: True)
        assert (await rig.names.getattr(kept.inode)).nlink == 0


async def test_an_unheld_large_file_is_left_to_reap() -> None:
    async with open_rig() as rig:
        file = await rig.make(b"file")
        await rig.write(*((file.inode, 8192 * index, 4096) for index in range(100)))
        gone = await rig.names.unlink(ROOT_INODE, b"file", now_ns=1, held=lambda _: False)
        assert gone.allocated == 100 * 4096
        assert (await rig.names.getattr(file.inode)).nlink == 0


async def test_link_counts_have_a_bound() -> None:
    async with open_rig(max_links=4) as rig:
        file = await rig.make(b"file")
        for number in range(3):
            await rig.names.link(file.inode, ROOT_INODE, b"link%d" % number, now_ns=1)
        with pytest.raises(TooManyLinks):
            await rig.names.link(file.inode, ROOT_INODE, b"more", now_ns=1)
        await rig.mkdir(b"one")
        await rig.mkdir(b"two")
        with pytest.raises(TooManyLinks):
            await rig.mkdir(b"three")
        await rig.make(b"a file is no link of its directory")


async def test_a_setgid_directory_hands_down_group_and_bit() -> None:
    async with open_rig() as rig:
        parent = await rig.make(b"shared", stat.S_IFDIR | stat.S_ISGID | 0o775, gid=42)
        file = await rig.make(b"file", FILE, parent.inode, uid=7, gid=7)
        assert (file.uid, file.gid, file.mode) == (7, 42, FILE)
        below = await rig.make(b"below", DIRECTORY, parent.inode, gid=7)
        assert (below.gid, below.mode) == (42, DIRECTORY | stat.S_ISGID)


async def test_symbolic_links_keep_any_target_up_to_4095_bytes() -> None:
    async with open_rig() as rig:
        for target in (b"x", b"../\xff\n", b"t" * 4095):
            link = await rig.make(b"l%d" % len(target), SYMLINK, target=target)
            assert (link.target, link.size) == (target, len(target))
            assert (await rig.names.getattr(link.inode)).target == target
        with pytest.raises(NameTooLong):
            await rig.make(b"long", SYMLINK, target=b"t" * 4096)
        with pytest.raises(NotFound):
            await rig.make(b"none", SYMLINK, target=b"")


async def test_devices_keep_their_number() -> None:
    async with open_rig() as rig:
        made = await rig.names.make(
            ROOT_INODE, b"dev", mode=stat.S_IFCHR | 0o600, uid=0, gid=0, now_ns=1, rdev=0x103
        )
        assert (await rig.names.getattr(made.inode)).rdev == 0x103


async def test_setattr_changes_what_is_given_and_nothing_else() -> None:
    async with open_rig() as rig:
        file = await rig.make(b"file")
        assert await rig.names.setattr(file.inode, AttrChange()) == file
        changed = await rig.names.setattr(
            file.inode, AttrChange(mode=stat.S_IFDIR | 0o7123, uid=1, atime_ns=-5, size=10)
        )
        assert changed.mode == stat.S_IFREG | 0o7123
        assert (changed.uid, changed.gid, changed.atime_ns, changed.size) == (1, 0, -5, 10)
        assert (changed.mtime_ns, changed.ctime_ns) == (file.mtime_ns, file.ctime_ns)
        assert await rig.names.getattr(file.inode) == changed


async def test_setattr_refuses_impossible_sizes() -> None:
    async with open_rig() as rig:
        file = await rig.make(b"file")
        directory = await rig.mkdir(b"dir")
        link = await rig.make(b"link", SYMLINK, target=b"x")
        await rig.names.setattr(file.inode, AttrChange(size=MAX_FILE_BYTES))
        for inode, size, error in (
            (file.inode, MAX_FILE_BYTES + 1, FileTooLarge),
            (file.inode, 5, InvalidArgument),
            (file.inode, -1, InvalidArgument),
            (directory.inode, 5, IsDirectory),
            (link.inode, 5, InvalidArgument),
        ):
            with pytest.raises(error):
                await rig.names.setattr(inode, AttrChange(size=size))


async def test_a_listing_holds_every_entry_once_with_its_attributes() -> None:
    async with open_rig() as rig:
        wanted = {b"f%d" % number for number in range(100)}
        for name in wanted:
            await rig.make(name)
        assert sorted(await names_of(rig)) == sorted(wanted)
        entries = await rig.names.readdir(ROOT_INODE, 0, 1000)
        assert all(entry.cookie > 2 for entry in entries)
        assert [entry.cookie for entry in entries] == sorted({e.cookie for e in entries})
        for entry in entries:
            assert await rig.names.lookup(ROOT_INODE, entry.name) == entry.attr


async def test_cookies_stay_while_entries_come_and_go() -> None:
    async with open_rig() as rig:
        for number in range(60):
            await rig.make(b"stay%d" % number)
            await rig.make(b"go%d" % number)
        seen: list[bytes] = []
        after = 0
        step = 0
        while entries := await rig.names.readdir(ROOT_INODE, after, 3):
            seen += [entry.name for entry in entries]
            after = entries[-1].cookie
            if step < 60:
                await rig.names.unlink(ROOT_INODE, b"go%d" % step, now_ns=1)
                await rig.make(b"new%d" % step)
            step += 1
        stayed = [name for name in seen if name.startswith(b"stay")]
        assert sorted(stayed) == sorted(b"stay%d" % number for number in range(60))
        assert len(set(seen)) == len(seen)


async def test_names_with_equal_hashes_are_all_found_and_listed_and_removable() -> None:
    async with open_rig(hash_name=lambda name: 1000 + len(name)) as rig:
        names = [b"%02d" % number for number in range(10)] + [b"%03d" % n for n in range(5)]
        made = {name: (await rig.make(name)).inode for name in names}
        assert sorted(await names_of(rig, page=1)) == sorted(names)
        for name, inode in made.items():
            assert (await rig.names.lookup(ROOT_INODE, name)).inode == inode
        await rig.names.unlink(ROOT_INODE, b"03", now_ns=1)
        await rig.names.rename(ROOT_INODE, b"05", ROOT_INODE, b"55", now_ns=1)
        left = sorted({*names, b"55"} - {b"03", b"05"})
        assert sorted(await names_of(rig, page=1)) == left
        for name in left:
            await rig.names.lookup(ROOT_INODE, name)
        for name in (b"03", b"05", b"77"):
            with pytest.raises(NotFound):
                await rig.names.lookup(ROOT_INODE, name)


async def test_more_equal_hashes_than_slots_is_a_clean_error() -> None:
    async with open_rig(hash_name=lambda name: 1000) as rig:
        for number in range(PROBE_SLOTS):
            await rig.make(b"%d" % number)
        with pytest.raises(NoSpace):
            await rig.make(b"more")
        with pytest.raises(NoSpace):
            await rig.names.link(
                (await rig.names.lookup(ROOT_INODE, b"0")).inode, ROOT_INODE, b"more", now_ns=1
            )
        await rig.names.unlink(ROOT_INODE, b"7", now_ns=1)
        await rig.make(b"more")
        assert len(await names_of(rig)) == PROBE_SLOTS


async def test_a_read_only_session_changes_nothing() -> None:
    async with open_rig() as rig:
        file = await rig.make(b"file")
        session = await Session.begin(rig.engine, read_only=True, mountpoint="/ro")
        names = Namespace(rig.engine, session)
        assert (await names.lookup(ROOT_INODE, b"file")).inode == file.inode
        for call in (
            names.make(ROOT_INODE, b"x", mode=FILE, uid=0, gid=0, now_ns=1),
            names.unlink(ROOT_INODE, b"file", now_ns=1),
            names.setattr(file.inode, AttrChange(uid=1)),
            names.setxattr(file.inode, b"user.a", b""),
        ):
            with pytest.raises(ReadOnly):
                await call
        await session.end()


async def test_a_lost_session_commits_nothing_more() -> None:
    engine = MemoryEngine()
    async with open_rig(engine) as rig:
        await rig.make(b"file")
        engine.locked = False  # As if the mount's host had died ...
        other = await Session.begin(engine, read_only=False, mountpoint="/other")
        for call in (
            rig.make(b"x"),
            rig.names.unlink(ROOT_INODE, b"file", now_ns=1),
            rig.write((ROOT_INODE, 0, 1)),
        ):
            with pytest.raises(SessionLost):
                await call
        await other.end()


async def test_concurrent_makes_of_one_name_make_it_once() -> None:
    async with open_rig(MemoryEngine(interleave=True)) as rig:
        outcomes: list[str] = []

        async def make() -> None:
            try:
                await rig.make(b"name")
                outcomes.append("made")
            except Exists:
                outcomes.append("exists")

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(make)
        assert sorted(outcomes) == ["exists"] * 4 + ["made"]
        assert await names_of(rig) == [b"name"]
