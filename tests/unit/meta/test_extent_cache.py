"""Extents kept in memory: never other than what the engine says."""

from __future__ import annotations

from random import Random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rainfs.meta import extent_cache, extents
from rainfs.meta.engine import Reader
from rainfs.meta.extents import Extents
from rainfs.meta.memory import MemoryEngine
from rainfs.model import KIB, MIB, InodeNumber
from tests.unit.meta.rig import Rig, open_rig

LIMIT = 100_000


class CountingEngine(MemoryEngine):
    """Counts reads."""

    reads = 0

    async def read(self, body):  # type: ignore[no-untyped-def]
        self.reads += 1
        return await super().read(body)


async def fresh(rig: Rig, inode: InodeNumber, start: int, stop: int) -> list[object]:
    """Ask somebody who knows nothing yet."""
    return list(await Extents(rig.engine, rig.session).find(inode, start, stop, limit=LIMIT))


async def test_random_reads_of_a_file_ask_the_engine_a_few_times() -> None:
    engine = CountingEngine()
    async with open_rig(engine) as rig:
        file = await rig.make(b"file")
        for first in range(0, 512, 64):
            await rig.write(*((file.inode, i * KIB, KIB) for i in range(first, first + 64)))
        random = Random(1)
        engine.reads = 0
        for _ in range(2_000):
            offset = random.randrange(512) * KIB
            (found,) = await rig.extents.find(file.inode, offset, offset + 100, limit=LIMIT)
            assert found.offset == offset
        assert engine.reads < 100


async def test_what_was_changed_is_read_again() -> None:
    seed = 20_261_121
    print("seed", seed)
    random = Random(seed)
    async with open_rig() as rig:
        files = [await rig.make(b"a"), await rig.make(b"b")]
        for _ in range(400):
            file = random.choice(files)
            offset, length = random.randrange(200) * 512, random.randrange(1, 40) * 512
            match random.randrange(8):
                case 0 | 1:
                    await rig.write((file.inode, offset, length))
                case 2:
                    await rig.extents.truncate(file.inode, offset, now_ns=rig.tick())
                case _:
                    stop = offset + length
                    found = await rig.extents.find(file.inode, offset, stop, limit=LIMIT)
                    assert list(found) == await fresh(rig, file.inode, offset, stop)
                    known = rig.extents.known(file.inode, offset, stop)
                    assert known is not None
                    assert list(known) == list(found)


async def test_a_reader_that_a_commit_overtook_keeps_nothing() -> None:
    engine = MemoryEngine(interleave=True)
    async with open_rig(engine) as rig:
        file = await rig.make(b"file")
        for turn in range(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.write, (file.inode, turn % 3 * KIB, 2 * KIB))
                for _ in range(4):
                    nursery.start_soon(find, rig, file.inode)
            found = await rig.extents.find(file.inode, 0, MIB, limit=LIMIT)
            assert list(found) == await fresh(rig, file.inode, 0, MIB)


class SlowToAnswer(MemoryEngine):
    """Keeps the answers to reads back while `held`."""

    held: trio.Event | None = None

    async def read(self, body):  # type: ignore[no-untyped-def]
        answer = await super().read(body)
        if self.held is not None:
            await self.held.wait()
        return answer


async def test_an_answer_that_is_old_when_it_comes_is_not_kept() -> None:
    engine = SlowToAnswer()
    async with open_rig(engine) as rig:
        file = await rig.make(b"file")
        await rig.write((file.inode, 0, KIB))
        async with trio.open_nursery() as nursery:
            engine.held = trio.Event()
            nursery.start_soon(find, rig, file.inode)
            await wait_all_tasks_blocked()
            await rig.write((file.inode, 0, KIB))
            engine.held.set()
        found = await rig.extents.find(file.inode, 0, KIB, limit=LIMIT)
        assert list(found) == await fresh(rig, file.inode, 0, KIB)


async def find(rig: Rig, inode: InodeNumber) -> None:
    await rig.extents.find(inode, 0, MIB, limit=LIMIT)


async def test_a_limit_holds_whether_known_or_not() -> None:
    async with open_rig() as rig:
        file = await rig.make(b"file")
        await rig.write(*((file.inode, i * KIB, KIB) for i in range(300)))
        for _ in range(2):
            for limit in (1, 5, 200, 300, 400):
                found = await rig.extents.find(file.inode, 0, MIB, limit=limit)
                assert [extent.offset for extent in found] == [
                    i * KIB for i in range(min(limit, 300))
                ]


async def test_holes_and_the_end_are_known_as_well() -> None:
    engine = CountingEngine()
    async with open_rig(engine) as rig:
        file = await rig.make(b"file")
        await rig.write((file.inode, 64 * KIB, KIB))
        await rig.extents.find(file.inode, 0, KIB, limit=LIMIT)
        engine.reads = 0
        assert not await rig.extents.find(file.inode, 4 * KIB, 64 * KIB, limit=LIMIT)
        assert not await rig.extents.find(file.inode, 65 * KIB, MIB, limit=LIMIT)
        assert len(await rig.extents.find(file.inode, 10, MIB, limit=LIMIT)) == 1
        assert engine.reads == 0


async def test_a_failed_commit_forgets_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_rig() as rig:
        file = await rig.make(b"file")
        await rig.write((file.inode, 0, KIB))
        await rig.extents.find(file.inode, 0, KIB, limit=LIMIT)
        assert rig.extents.known(file.inode, 0, KIB)

        async def broken(self: object, transaction: Reader) -> bool:
            raise RuntimeError("who knows what was committed")

        monkeypatch.setattr(extents.Commit, "step", broken)
        with pytest.raises(RuntimeError):
            await rig.write((file.inode, 0, KIB))
        assert rig.extents.known(file.inode, 0, KIB) is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extent_cache, "MAX_WINDOWS", 10)
    seed = 7
    random = Random(seed)
    cache = extent_cache.ExtentCache()
    for _ in range(2_000):
        inode = InodeNumber(random.randrange(5))
        start = random.randrange(1_000)
        if random.random() < 0.1:
            cache.forget(inode)
        elif cache.find(inode, start, start + 1) is None:
            stop = start + random.randrange(1, 300)
            cache.learn(inode, start, stop, [], asked_to=random.randrange(start, stop))
        assert len(cache) <= 10
    for number in range(5):
        cache.forget(InodeNumber(number))
    assert not len(cache)
