"""Extended attributes: flags, limits, the mark on the inode."""

from __future__ import annotations

import pytest

from rainfs.errors import (
    AttributeTooLarge,
    Exists,
    InvalidArgument,
    NameTooLong,
    NoAttribute,
    NoSpace,
    NotFound,
)
from rainfs.meta.namespace import XattrFlag
from rainfs.meta.xattrs import MAX_VALUE_BYTES, MAX_XATTRS
from rainfs.model import ROOT_INODE
from tests.unit.meta.rig import FILE, open_rig


async def test_a_value_is_set_read_listed_replaced_and_removed() -> None:
    async with open_rig() as rig:
        file = await rig.make(b"file")
        assert await rig.names.listxattr(file.inode) == []
        attr = await rig.names.setxattr(file.inode, b"user.b", b"\0\xff", now_ns=50)
        assert (attr.has_xattrs, attr.ctime_ns) == (True, 50)
        await rig.names.setxattr(file.inode, b"user.a", b"")
        assert await rig.names.getxattr(file.inode, b"user.b") == b"\0\xff"
        assert await rig.names.getxattr(file.inode, b"user.a") == b""
        assert await rig.names.listxattr(file.inode) == [b"user.a", b"user.b"]
        await rig.names.setxattr(file.inode, b"user.b", b"new")
        assert await rig.names.getxattr(file.inode, b"user.b") == b"new"
        attr = await rig.names.removexattr(file.inode, b"user.b", now_ns=60)
        assert (attr.has_xattrs, attr.ctime_ns) == (True, 60)
        attr = await rig.names.removexattr(file.inode, b"user.a")
        assert not attr.has_xattrs
        assert await rig.names.getattr(file.inode) == attr


async def test_flags_say_whether_it_must_exist() -> None:
    async with open_rig() as rig:
        file = await rig.make(b"file")
        with pytest.raises(NoAttribute):
            await rig.names.setxattr(file.inode, b"user.a", b"", XattrFlag.REPLACE)
        await rig.names.setxattr(file.inode, b"user.a", b"1", XattrFlag.CREATE)
        with pytest.raises(Exists):
            await rig.names.setxattr(file.inode, b"user.a", b"2", XattrFlag.CREATE)
        await rig.names.setxattr(file.inode, b"user.a", b"3", XattrFlag.REPLACE)
        assert await rig.names.getxattr(file.inode, b"user.a") == b"3"
        with pytest.raises(InvalidArgument):
            await rig.names.setxattr(file.inode, b"user.a", b"", XattrFlag(3))


async def test_what_is_not_there_says_so() -> None:
    async with open_rig() as rig:
        for call in (
            rig.names.getxattr(ROOT_INODE, b"user.a"),
            rig.names.removexattr(ROOT_INODE, b"user.a"),
        ):
            with pytest.raises(NoAttribute):
                await call
        for call in (
            rig.names.getxattr(99, b"user.a"),
            rig.names.setxattr(99, b"user.a", b""),
            rig.names.listxattr(99),
            rig.names.removexattr(99, b"user.a"),
        ):
            with pytest.raises(NotFound):
                await call


async def test_limits_of_names_and_values() -> None:
    async with open_rig() as rig:
        await rig.names.setxattr(ROOT_INODE, b"n" * 255, b"v" * MAX_VALUE_BYTES)
        assert len(await rig.names.getxattr(ROOT_INODE, b"n" * 255)) == MAX_VALUE_BYTES
        for name, value, error in (
            (b"n" * 256, b"", NameTooLong),
            (b"", b"", InvalidArgument),
            (b"a\0b", b"", InvalidArgument),
            (b"a", b"v" * (MAX_VALUE_BYTES + 1), AttributeTooLarge),
        ):
            with pytest.raises(error):
                await rig.names.setxattr(ROOT_INODE, name, value)


async def test_an_inode_has_a_bounded_list() -> None:
    async with open_rig() as rig:
        for number in range(MAX_XATTRS):
            await rig.names.setxattr(ROOT_INODE, b"user.%d" % number, b"")
        with pytest.raises(NoSpace):
            await rig.names.setxattr(ROOT_INODE, b"user.more", b"")
        await rig.names.setxattr(ROOT_INODE, b"user.0", b"replacing still works")


async def test_attributes_given_at_birth_are_there() -> None:
    async with open_rig() as rig:
        made = await rig.names.make(
            ROOT_INODE, b"f", mode=FILE, uid=0, gid=0, now_ns=1, xattrs={b"system.x": b"acl"}
        )
        assert made.has_xattrs
        assert await rig.names.getxattr(made.inode, b"system.x") == b"acl"


async def test_neighbouring_inodes_do_not_share_attributes() -> None:
    async with open_rig() as rig:
        one, two = await rig.make(b"one"), await rig.make(b"two")
        await rig.names.setxattr(one.inode, b"user.a", b"1")
        await rig.names.setxattr(two.inode, b"user.b", b"2")
        assert await rig.names.listxattr(one.inode) == [b"user.a"]
        await rig.names.unlink(ROOT_INODE, b"one", now_ns=1)
        await rig.extents.reap(one.inode)
        assert await rig.names.getxattr(two.inode, b"user.b") == b"2"
