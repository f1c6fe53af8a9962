"""Attributes through the vfs: access times, times beyond the range, names of attributes, ACLs."""

from __future__ import annotations

import stat

import pytest
from trio.testing import MockClock

from rainfs.errors import InvalidArgument, NoAttribute, NotFound, NotSupported
from rainfs.model import ROOT_INODE
from rainfs.vfs import acl
from rainfs.vfs.attributes import MAX_TIME_NS, MIN_TIME_NS, Change
from tests.unit.vfs.rig import ROOT, Disk, mounted

OLD_NS = 1_000_000_000


async def test_a_read_renews_an_access_time_that_was_just_set(autojump_clock: MockClock) -> None:
    async with mounted(Disk()) as mount:
        handle = await mount.create(b"f")
        await mount.write(handle, 0, b"content")
        inode = await mount.inode(b"f")
        assert inode is not None
        change = Change(atime_ns=OLD_NS, mtime_ns=OLD_NS + 1)
        assert (await mount.vfs.attributes.set(inode.inode, change)).pending
        await mount.read(handle, 0, 7)
        assert inode.atime_ns > OLD_NS + 1
        assert inode.mtime_ns == OLD_NS + 1


async def test_readlink_renews_the_access_time(autojump_clock: MockClock) -> None:
    async with mounted(Disk()) as mount:
        link = await mount.vfs.names.make(ROOT_INODE, b"l", 0o120777, ROOT, target=b"target")
        await mount.vfs.attributes.set(link.inode, Change(atime_ns=OLD_NS, mtime_ns=OLD_NS + 1))
        assert await mount.vfs.attributes.readlink(link.inode) == b"target"
        assert link.atime_ns > OLD_NS + 1


@pytest.mark.parametrize("far", [1 << 63, 1 << 70, -(1 << 63) - 1, -(1 << 70)])
async def test_times_out_of_range_become_the_nearest(far: int, autojump_clock: MockClock) -> None:
    disk = Disk()
    nearest = MAX_TIME_NS if far > 0 else MIN_TIME_NS
    async with mounted(disk) as mount:
        await mount.create(b"f")
        inode = await mount.inode(b"f")
        assert inode is not None
        found = await mount.vfs.attributes.set(inode.inode, Change(atime_ns=far, mtime_ns=far))
        assert (found.atime_ns, found.mtime_ns) == (nearest, nearest)
    async with mounted(disk) as mount:
        again = await mount.inode(b"f")
        assert again is not None
        assert (again.atime_ns, again.mtime_ns) == (nearest, nearest)


async def test_attributes_have_a_namespace(autojump_clock: MockClock) -> None:
    async with mounted(Disk()) as mount:
        await mount.create(b"f")
        inode = await mount.inode(b"f")
        assert inode is not None
        attributes = mount.vfs.attributes
        for name, error in (
            (b"name", NotSupported),
            (b"system.unknown", NotSupported),
            (b"user.", InvalidArgument),
            (b"trusted.", InvalidArgument),
        ):
            with pytest.raises(error):
                await attributes.setxattr(inode, name, b"value")
            with pytest.raises(error):
                await attributes.getxattr(inode, name)
            with pytest.raises(error):
                await attributes.removexattr(inode, name)
        with pytest.raises(NoAttribute):
            await attributes.getxattr(inode, acl.ACCESS)


async def test_trusted_names_are_shown_to_the_privileged_only(autojump_clock: MockClock) -> None:
    async with mounted(Disk()) as mount:
        await mount.create(b"f")
        inode = await mount.inode(b"f")
        assert inode is not None
        for name in (b"trusted.a", b"user.a"):
            await mount.vfs.attributes.setxattr(inode, name, b"value")
        listed = mount.vfs.attributes.listxattr
        assert await listed(inode, privileged=True) == [b"trusted.a", b"user.a"]
        assert await listed(inode, privileged=False) == [b"user.a"]


async def test_an_access_list_set_by_a_stranger_takes_set_group_id(
    autojump_clock: MockClock,
) -> None:
    entries = (
        acl.Entry(acl.USER_OBJ, 7, acl.UNDEFINED_ID),
        acl.Entry(acl.USER, 5, 1000),
        acl.Entry(acl.GROUP_OBJ, 5, acl.UNDEFINED_ID),
        acl.Entry(acl.MASK, 5, acl.UNDEFINED_ID),
        acl.Entry(acl.OTHER, 5, acl.UNDEFINED_ID),
    )
    async with mounted(Disk()) as mount:
        await mount.create(b"f")
        found = await mount.inode(b"f")
        assert found is not None
        attributes = mount.vfs.attributes
        for in_group, bit in ((True, stat.S_ISGID), (False, 0)):
            inode = await attributes.set(found.inode, Change(mode=0o2755))
            await attributes.setxattr(inode, acl.ACCESS, acl.build(entries), in_group=in_group)
            assert (await attributes.get(found.inode)).mode & stat.S_ISGID == bit


async def test_every_inode_has_the_name_dot_for_itself(autojump_clock: MockClock) -> None:
    async with mounted(Disk()) as mount:
        await mount.create(b"f")
        inode = await mount.inode(b"f")
        assert inode is not None
        before = mount.vfs.table.lookups[inode.inode]
        for number in (inode.inode, ROOT_INODE):
            found = await mount.vfs.names.lookup(number, b".")
            assert found is not None
            assert found.inode == number
        assert mount.vfs.table.lookups[inode.inode] == before + 1
        assert await mount.vfs.names.lookup(1 << 40, b".") is None
        handle = await mount.open(b"f")
        await mount.unlink(b"f")
        assert await mount.vfs.names.lookup(inode.inode, b".") is None, "it has no name"
        mount.vfs.files.release(handle)


@pytest.mark.parametrize("in_memory", [True, False])
async def test_the_kernel_may_store_times_of_what_it_just_unlinked(
    in_memory: bool, autojump_clock: MockClock
) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        mount.vfs.files.release(await mount.create(b"f"))
        inode = await mount.inode(b"f")
        assert inode is not None
        number = inode.inode
        if not in_memory:
            mount.vfs.table._live.pop(number)
        await mount.unlink(b"f")
        found = await mount.vfs.attributes.set(number, Change(ctime_ns=5, mtime_ns=6, mode=0o600))
        assert (found.ctime_ns, found.mtime_ns) == (5, 6)
        assert stat.S_IMODE(found.mode) == 0o600
        assert found.nlink == 0
        mount.vfs.table.forget(number, mount.vfs.table.lookups[number])
        with pytest.raises(NotFound):
            await mount.vfs.attributes.set(number, Change(ctime_ns=5))
