"""Which changes take set-id bits away, and from which modes."""

from __future__ import annotations

import stat
from typing import cast

import pyfuse3
import pytest

from rainfs.mount.callers import takes_set_id, without_set_id
from rainfs.vfs.attributes import Change


class Context:
    """What the functions under test ask of a request."""

    def __init__(self, uid: int) -> None:
        self.uid = self.gid = uid
        self.pid = 1


@pytest.mark.parametrize(
    ("change", "by_root", "by_user"),
    [
        (Change(), True, True),  # A write that the kernel announces, or chown(-1, -1).
        (Change(size=3), False, True),
        (Change(uid=5), True, True),
        (Change(gid=5), True, True),
        (Change(mode=0o4755), False, False),
        (Change(mode=0o755, size=0), False, False),  # The kernel has decided.
        (Change(mtime_ns=1), False, False),
        (Change(atime_ns=1, mtime_ns=1, ctime_ns=1), False, False),
    ],
)
def test_only_content_and_owner_take_the_bits(change: Change, by_root: bool, by_user: bool) -> None:
    root, user = (cast("pyfuse3.RequestContext", Context(uid)) for uid in (0, 1000))
    assert takes_set_id(change, root) is by_root
    assert takes_set_id(change, user) is by_user


@pytest.mark.parametrize(
    ("before", "by_member", "by_stranger"),
    [
        (0o4755, 0o755, 0o755),
        (0o2755, 0o755, 0o755),
        (0o6777, 0o777, 0o777),
        (0o2745, 0o2745, 0o745),
        (0o6745, 0o2745, 0o745),
        (0o1755, 0o1755, 0o1755),
    ],
)
def test_a_group_without_the_right_to_execute_loses_its_bit_to_strangers_only(
    before: int, by_member: int, by_stranger: int
) -> None:
    root, member, stranger = (
        cast("pyfuse3.RequestContext", Context(uid)) for uid in (0, 1000, 1001)
    )
    file, directory = stat.S_IFREG | before, stat.S_IFDIR | before
    assert without_set_id(file, root, 1000) == stat.S_IFREG | by_member
    assert without_set_id(file, member, 1000) == stat.S_IFREG | by_member
    assert without_set_id(file, stranger, 1000) == stat.S_IFREG | by_stranger
    assert without_set_id(directory, stranger, 1000) == directory
