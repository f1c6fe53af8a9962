"""Who asks: what FUSE tells, and further groups from /proc."""

from __future__ import annotations

import os
import signal
import types

import pytest

from rainfs.mount.callers import caller_of, is_in_group


def context(*, uid: int, gid: int, pid: int) -> types.SimpleNamespace:
    return types.SimpleNamespace(uid=uid, gid=gid, pid=pid, umask=0o027)


def test_the_caller_is_what_fuse_tells() -> None:
    assert caller_of(context(uid=1, gid=2, pid=3)) == (1, 2, 0o027)


def test_root_and_the_first_group_need_no_look() -> None:
    assert is_in_group(context(uid=0, gid=5, pid=0), 77)
    assert is_in_group(context(uid=1000, gid=77, pid=0), 77)


def test_a_process_that_cannot_be_seen_belongs_to_no_further_group() -> None:
    assert not is_in_group(context(uid=1000, gid=5, pid=0), 77)
    assert not is_in_group(context(uid=1000, gid=5, pid=1 << 30), 77)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to take groups")
def test_further_groups_count() -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([70, 77])
        os.write(writing, b"!")
        signal.pause()
        os._exit(0)
    try:
        os.read(reading, 1)
        asker = context(uid=1000, gid=5, pid=pid)
        assert is_in_group(asker, 70)
        assert is_in_group(asker, 77)
        assert not is_in_group(asker, 7)
        assert not is_in_group(asker, 7077)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)
