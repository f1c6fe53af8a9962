"""The adapter survives everything, and every error of ours has a number."""

from __future__ import annotations

import errno
import inspect
import json
import logging
import os
import types
from random import Random
from typing import Any

import pyfuse3
import pytest
import trio
from trio.testing import MockClock

from rainfs import errors
from rainfs.mount import adapter as adapter_module
from rainfs.mount.adapter import MAX_WAITING, Adapter
from rainfs.mount.errno_table import TABLE, errno_of
from tests.unit.vfs.rig import Disk, mounted

CTX = types.SimpleNamespace(uid=0, gid=0, umask=0o022, pid=1)


def every_error() -> list[type[errors.RainError]]:
    found = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    return [c for c in found if issubclass(c, errors.RainError)]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_number(kind: type[errors.RainError]) -> None:
    number = errno_of(kind("why"))
    assert number in errno.errorcode
    if issubclass(kind, errors.PosixError) and kind is not errors.PosixError:
        assert kind in TABLE, "what POSIX names has a number of its own"


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def test_any_exception_becomes_a_logged_eio(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with mounted(Disk()) as mount:
        adapter = Adapter(mount.vfs, writeback=False, noxattr=False)

        async def broken(*args: object, **kwargs: object) -> None:
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(mount.vfs.attributes, "get", broken)
        with caplog.at_level(logging.ERROR), pytest.raises(pyfuse3.FUSEError) as caught:
            await adapter.getattr(1, CTX)
        assert caught.value.errno == errno.EIO
        assert "ZeroDivisionError" in caplog.text


async def test_requests_that_wait_leave_workers_for_others(autojump_clock: MockClock) -> None:
    assert MAX_WAITING < adapter_module.MAX_WORKERS
    disk = Disk()
    async with mounted(disk) as mount:
        adapter = Adapter(mount.vfs, writeback=False, noxattr=False)
        info, _ = await adapter.create(1, b"f", 0o644, os.O_RDWR, CTX)
        for node in disk.fleet.nodes:
            node.frozen = True
        outcomes: list[int] = []

        async def write(number: int) -> None:
            try:
                await adapter.write(info.fh, number << 16, bytes(1 << 16))
                outcomes.append(0)
            except pyfuse3.FUSEError as error:
                outcomes.append(error.errno)

        async with trio.open_nursery() as nursery:
            for number in range(MAX_WAITING + 50):
                nursery.start_soon(write, number)
            await trio.sleep(0.1)
            assert adapter.waiting <= MAX_WAITING
            assert (await adapter.getattr(1, CTX)).st_ino == 1
            assert (await adapter.statfs(CTX)).f_namemax == 255
        assert adapter.waiting == 0
        assert set(outcomes) == {0, errno.EIO}
        for node in disk.fleet.nodes:
            node.frozen = False
        await trio.sleep(20)


async def test_the_root_tells_what_the_mount_holds_and_sees(autojump_clock: MockClock) -> None:
    disk = Disk()
    async with mounted(disk) as mount:
        adapter = Adapter(mount.vfs, writeback=False, noxattr=False)
        info, _ = await adapter.create(1, b"f", 0o644, os.O_RDWR, CTX)
        await adapter.write(info.fh, 0, bytes(10_000))
        held = json.loads(await adapter.getxattr(1, b"rainfs.mount", CTX))
        assert 10_000 <= held["dirty_bytes"] <= held["dirty_peak_bytes"] < 11_000
        assert held["dirty_limit_bytes"] == mount.vfs.options.dirty_bytes
        assert set(held["nodes"].values()) == {"up"}
        await adapter.fsync(info.fh, False)
        assert await adapter.listxattr(1, CTX) == []
        for node in disk.fleet.nodes[:2]:
            node.dead = True
        await trio.sleep(20)
        synced = json.loads(await adapter.getxattr(1, b"rainfs.mount", CTX))
        assert synced["dirty_bytes"] == 0
        assert synced["dirty_peak_bytes"] == held["dirty_peak_bytes"]
        assert list(synced["nodes"].values()) == ["down"] * 2 + ["up"] * 4
        assert set(synced["reads"]) == {
            *("gets", "get_bytes", "in_line", "direct", "raced", "gathered")
        }
        with pytest.raises(pyfuse3.FUSEError):
            await adapter.getxattr(2, b"rainfs.mount", CTX)


async def test_every_handler_survives_nonsense(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    seed = 4711
    print("seed", seed)
    random = Random(seed)
    disk = Disk()
    async with mounted(disk) as mount:
        adapter = Adapter(mount.vfs, writeback=False, noxattr=False)
        info, entry = await adapter.create(1, b"f", 0o644, os.O_RDWR, CTX)
        made = await adapter.mkdir(1, b"d", 0o755, CTX)
        opened = await adapter.opendir(1, CTX)
        numbers = [0, 1, 2, 3, entry.st_ino, made.st_ino, info.fh, opened, 1 << 63]
        words = [b"", b".", b"..", b"f", b"d", b"x" * 255, b"x" * 256, b"a\0b", b"a/b", b"\xff"]
        fields = types.SimpleNamespace(
            update_mode=True,
            update_uid=False,
            update_gid=True,
            update_size=True,
            update_atime=False,
            update_mtime=True,
            update_ctime=False,
        )

        def number() -> int:
            return random.choice(numbers)

        def word() -> bytes:
            return random.choice(words)

        def changed() -> Any:
            attr = pyfuse3.EntryAttributes()
            attr.st_mode, attr.st_size = random.choice([0, 0o644, 0o107777]), random.getrandbits(62)
            return attr

        calls = [
            lambda: adapter.lookup(number(), word(), CTX),
            lambda: adapter.getattr(number(), CTX),
            lambda: adapter.setattr(number(), changed(), fields, None, CTX),
            lambda: adapter.readlink(number(), CTX),
            lambda: adapter.mknod(number(), word(), random.getrandbits(16), number(), CTX),
            lambda: adapter.mkdir(number(), word(), 0o40755, CTX),
            lambda: adapter.unlink(number(), word(), CTX),
            lambda: adapter.rmdir(number(), word(), CTX),
            lambda: adapter.symlink(number(), word(), word(), CTX),
            lambda: adapter.link(number(), number(), word(), CTX),
            lambda: adapter.rename(
                number(), word(), number(), word(), random.choice([0, 1, 2, 3, 9]), CTX
            ),
            lambda: adapter.open(number(), random.choice([0, 1, 2, os.O_TRUNC]), CTX),
            lambda: adapter.read(number(), random.getrandbits(60), 4096),
            lambda: adapter.write(number(), random.getrandbits(62), b"data"),
            lambda: adapter.flush(number()),
            lambda: adapter.fsync(number(), False),
            lambda: adapter.fsyncdir(number(), True),
            lambda: adapter.release(number()),
            lambda: adapter.opendir(number(), CTX),
            lambda: adapter.releasedir(number()),
            lambda: adapter.setxattr(number(), word(), word(), CTX),
            lambda: adapter.setxattr(number(), b"system.posix_acl_access", word(), CTX),
            lambda: adapter.getxattr(number(), word(), CTX),
            lambda: adapter.listxattr(number(), CTX),
            lambda: adapter.removexattr(number(), word(), CTX),
            lambda: adapter.create(number(), word(), 0o644, random.choice([0, os.O_EXCL]), CTX),
            lambda: adapter.forget([(number(), random.randrange(3))]),
            lambda: adapter.statfs(CTX),
            lambda: adapter.access(number(), 7, CTX),
        ]
        seen: set[int] = set()
        for _ in range(4000):
            try:
                await random.choice(calls)()
            except pyfuse3.FUSEError as error:
                seen.add(error.errno)
        assert seen <= set(errno.errorcode)
        assert not [record for record in caplog.records if record.exc_info], "a bug of ours"


async def test_a_write_is_not_asked_for_attributes_on_nodes(autojump_clock: MockClock) -> None:
    async with mounted(Disk()) as mount:
        adapter = Adapter(mount.vfs, writeback=False, noxattr=False)
        _, entry = await adapter.create(1, b"f", 0o644, os.O_RDWR, CTX)
        attempts = mount.disk.engine.attempts
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await adapter.getxattr(entry.st_ino, b"security.capability", CTX)
        assert caught.value.errno == errno.ENODATA
        assert mount.disk.engine.attempts == attempts


async def test_noxattr_has_the_kernel_stop_asking(autojump_clock: MockClock) -> None:
    async with mounted(Disk()) as mount:
        adapter = Adapter(mount.vfs, writeback=False, noxattr=True)
        for call in (
            adapter.getxattr(1, b"user.a", CTX),
            adapter.setxattr(1, b"user.a", b"b", CTX),
            adapter.listxattr(1, CTX),
            adapter.removexattr(1, b"user.a", CTX),
        ):
            with pytest.raises(pyfuse3.FUSEError) as caught:
                await call
            assert caught.value.errno == errno.ENOSYS


async def test_absent_names_may_be_remembered(autojump_clock: MockClock) -> None:
    async with mounted(Disk()) as mount:
        adapter = Adapter(mount.vfs, writeback=False, noxattr=False)
        absent = await adapter.lookup(1, b"absent", CTX)
        assert absent.st_ino == 0
        assert absent.entry_timeout > 60
        assert not mount.vfs.table.lookups
