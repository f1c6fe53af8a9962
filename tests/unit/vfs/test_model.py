"""The vfs against plain byte arrays: random operations, failing nodes, remounts and power cuts."""

from __future__ import annotations

from random import Random

import pytest
import trio
from trio.testing import MockClock

from rainfs.errors import RainError
from rainfs.vfs.options import VfsOptions
from tests.unit.vfs.rig import BLOCK, STRIPE, Disk, Mount, assert_sound, mounted

MAX_BYTES = 3 * STRIPE
FILES = (b"one", b"two", b"three")
OPTIONS = VfsOptions(dirty_bytes=4 * STRIPE, deadline_s=30.0, reserve_bytes=0, flush_age_s=2.0)


class Model:
    """What one file holds, and held since it was last made durable."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.since: list[bytes] = [b""]

    def write(self, offset: int, data: bytes) -> None:
        if offset > len(self.data):
            self.data.extend(bytes(offset - len(self.data)))
        self.data[offset : offset + len(data)] = data
        self.since.append(bytes(self.data))

    def truncate(self, size: int) -> None:
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))
        self.since.append(bytes(self.data))

    def durable(self) -> None:
        self.since = [bytes(self.data)]

    def allows(self, found: bytes) -> bool:
        """Whether every byte is one that was there at some time since the last fsync."""
        lengths = {len(state) for state in self.since}
        if not min(lengths) <= len(found) <= max(lengths):
            return False
        return all(
            any(at < len(state) and state[at] == byte for state in self.since) or byte == 0
            for at, byte in enumerate(found)
            if at >= len(self.since[-1]) or self.since[-1][at] != byte
        )


class Run:
    """One random run."""

    def __init__(self, seed: int, *, interleave: bool) -> None:
        print("seed", seed)
        self.random = Random(seed)
        self.disk = Disk(interleave=interleave)
        self.models = {name: Model() for name in FILES}

    async def step(self, mount: Mount, handles: dict[bytes, int]) -> None:
        random = self.random
        name = random.choice(FILES)
        model, handle = self.models[name], handles[name]
        kind = random.choice(["write"] * 6 + ["read"] * 4 + ["cut", "grow", "sync", "pause"])
        if kind == "write":
            offset = random.choice([random.randrange(MAX_BYTES), len(model.data)])
            length = random.choice([1, 100, 512, BLOCK, BLOCK + 1, random.randrange(1, STRIPE)])
            length = max(0, min(length, MAX_BYTES - offset))
            data = random.randbytes(length)
            if length:
                await mount.write(handle, offset, data)
                model.write(offset, data)
        elif kind == "read":
            offset, length = random.randrange(MAX_BYTES), random.randrange(1, STRIPE)
            want = bytes(model.data[offset : offset + length])
            assert await mount.read(handle, offset, length) == want
        elif kind == "cut":
            size = random.randrange(len(model.data) + 1)
            await mount.truncate(name, size)
            model.truncate(size)
        elif kind == "grow":
            size = min(MAX_BYTES, len(model.data) + random.randrange(2 * BLOCK))
            await mount.truncate(name, size)
            model.truncate(size)
        elif kind == "sync":
            before = model.data[:]
            await mount.vfs.files.fsync(handle)
            assert before == model.data
            model.durable()
        else:
            await trio.sleep(random.choice([0.01, 1.0, 6.0]))

    async def check(self, mount: Mount) -> None:
        for name, model in self.models.items():
            assert await mount.content(name) == bytes(model.data), name


async def handles_of(mount: Mount) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for name in FILES:
        known = await mount.inode(name)
        found[name] = await (mount.create(name) if known is None else mount.open(name))
    return found


@pytest.mark.parametrize("seed", range(6))
async def test_files_equal_byte_arrays_across_remounts(
    autojump_clock: MockClock, seed: int
) -> None:
    run = Run(seed, interleave=bool(seed % 2))
    for _ in range(4):
        async with mounted(run.disk, OPTIONS) as mount:
            handles = await handles_of(mount)
            for _ in range(120):
                await run.step(mount, handles)
            await run.check(mount)
        await assert_sound(run.disk)
    async with mounted(run.disk, OPTIONS) as mount:
        await run.check(mount)


@pytest.mark.parametrize("seed", range(100, 104))
async def test_files_equal_byte_arrays_while_nodes_come_and_go(
    autojump_clock: MockClock, seed: int
) -> None:
    run = Run(seed, interleave=True)

    async def trouble() -> None:
        nodes = run.disk.fleet.nodes
        while True:
            await trio.sleep(run.random.uniform(0.5, 8))
            victims = run.random.sample(nodes, run.random.choice([1, 2, 2, 6]))
            for node in victims:
                node.dead = True
            await trio.sleep(run.random.uniform(0.5, 4))
            for node in victims:
                node.dead = False
            await trio.sleep(4)

    async def stubborn(mount: Mount, handles: dict[bytes, int]) -> None:
        try:
            await run.step(mount, handles)
        except RainError as error:
            print("refused:", error)
            await trio.sleep(1)

    async with mounted(run.disk, OPTIONS) as mount:
        handles = await handles_of(mount)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trouble)
            for _ in range(200):
                await stubborn(mount, handles)
            nursery.cancel_scope.cancel()
        for node in run.disk.fleet.nodes:
            node.dead = False
        await trio.sleep(20)
        await run.check(mount)
    async with mounted(run.disk, OPTIONS) as mount:
        await run.check(mount)
    await assert_sound(run.disk)


@pytest.mark.parametrize("seed", range(200, 206))
async def test_after_a_power_cut_every_synced_byte_is_there_and_none_is_invented(
    autojump_clock: MockClock, seed: int
) -> None:
    run = Run(seed, interleave=True)
    async with mounted(run.disk, OPTIONS) as mount:
        await handles_of(mount)
    for _ in range(4):
        async with mounted(run.disk, OPTIONS, close=False) as mount:
            handles = await handles_of(mount)
            for _ in range(run.random.randrange(5, 60)):
                await run.step(mount, handles)
            run.disk.engine.power_cut()
        async with mounted(run.disk, OPTIONS) as mount:
            for name, model in run.models.items():
                found = await mount.content(name)
                assert found is not None
                assert model.allows(found), name
                model.data = bytearray(found)
                model.durable()
        await assert_sound(run.disk)


async def test_writers_and_truncaters_of_one_file_at_once_lose_nothing(
    autojump_clock: MockClock,
) -> None:
    """Each task owns a region; one task cuts the end off again and again, beyond all of them."""
    disk = Disk(interleave=True)
    async with mounted(disk, OPTIONS) as mount:
        handle = await mount.create(b"f")
        seed = 5
        random = Random(seed)
        want = bytearray(4 * STRIPE)

        async def write(region: int) -> None:
            for _ in range(60):
                at = region * STRIPE + random.randrange(STRIPE - 300)
                data = random.randbytes(random.randrange(1, 300))
                await mount.write(handle, at, data)
                want[at : at + len(data)] = data
                if random.random() < 0.1:
                    await mount.vfs.files.fsync(handle)
                await trio.sleep(random.random() * 0.2)

        async def cut() -> None:
            for _ in range(40):
                await mount.write(handle, 4 * STRIPE, random.randbytes(STRIPE))
                await trio.sleep(random.random() * 0.2)
                await mount.truncate(b"f", 4 * STRIPE)

        await mount.truncate(b"f", 4 * STRIPE)
        async with trio.open_nursery() as nursery:
            for region in range(4):
                nursery.start_soon(write, region)
            nursery.start_soon(cut)
        assert await mount.read(handle, 0, 8 * STRIPE) == bytes(want)
    async with mounted(disk) as mount:
        assert await mount.content(b"f") == bytes(want)
    await assert_sound(disk)
