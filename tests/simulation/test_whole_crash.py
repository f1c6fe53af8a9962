"""A power cut of everything at once, nodes and metadata, loses no byte that was fsynced.

The workload is recorded once; then the power goes at many points of the record, and each time the
volume is mounted again from what the disks kept.  Every promise is checked: fsynced bytes, no
stripe in the metadata whose shards are gone, exact live-byte counts, no orphan shard after garbage
collection.
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
import trio

from rainfs.errors import NotFound, ShardMissing
from rainfs.meta.extents import Extents
from rainfs.meta.recount import recount
from rainfs.meta.renaming import RenameFlag
from rainfs.meta.stripes import scan_stripes
from rainfs.model import KIB, NO_NODE, ROOT_INODE, InodeNumber, ShardKey, StripeId
from tests.simulation.disk import EVERYTHING, NOTHING, PREFIX, RANDOM, TORN, RecordingDisk, sample
from tests.simulation.whole import NODES, ROOT, Lab, make_volume, open_lab

OPERATIONS = 90
MAX_FILE = 96 * KIB
POINTS = 14
LONG_POINTS = 700
SURVIVALS = (NOTHING, EVERYTHING, PREFIX, RANDOM, TORN)


@dataclass
class FileTruth:
    """What one file may hold after a crash."""

    durable: bytes | None = None
    """Content at the last fsync; None before the first."""
    later: list[bytes] = field(default_factory=list)
    """Contents after each change since."""
    gone: bool = False
    """Its last name has been removed, or is being removed."""

    def allows(self, found: bytes) -> bool:
        versions = ([self.durable] if self.durable is not None else [b""]) + self.later
        if found in versions:
            return True
        lengths = {len(version) for version in versions}
        if not min(lengths) <= len(found) <= max(lengths):
            return False
        for index, byte in enumerate(found):
            if not any(index >= len(v) or v[index] == byte or byte == 0 for v in self.later):
                if self.durable is None or index >= len(self.durable):
                    if byte:
                        return False
                elif self.durable[index] != byte:
                    return False
        return True


class Workload:
    """Random writes, fsyncs, truncates, renames over files, unlinks, reaping, garbage collection.

    Marks in the disk's log: ("changed", inode, content), ("fsynced", inode, content),
    ("unlinking", inode).
    """

    def __init__(self, lab: Lab, disk: RecordingDisk, random: Random) -> None:
        self.lab = lab
        self.disk = disk
        self.random = random
        self.files: dict[bytes, tuple[int, int, bytearray]] = {}
        """name -> inode, handle, content"""
        self.names = 0

    async def run(self, operations: int) -> None:
        steps = (
            [self.write] * 6 + [self.fsync] * 4 + [self.truncate, self.unlink, self.replace]
        ) + [self.create] * 2
        await self.create()
        for number in range(operations):
            await self.random.choice(steps)()
            if number % 9 == 8:
                await self.lab.reaper.round()
            if number % 40 == 39:
                await self.lab.collect_garbage()

    async def create(self) -> None:
        name = b"file-%d" % self.names
        self.names += 1
        inode = await self.lab.vfs.names.make(ROOT_INODE, name, stat.S_IFREG | 0o644, ROOT)
        handle = await self.lab.vfs.files.open(inode.inode, truncate=False, write=True, uid=0)
        self.files[name] = (inode.inode, handle, bytearray())
        await self.write()

    def _pick(self) -> bytes | None:
        return self.random.choice(sorted(self.files)) if self.files else None

    async def write(self) -> None:
        if (name := self._pick()) is None:
            return
        inode, handle, content = self.files[name]
        length = self.random.choice([1, 700, 4 * KIB, 4 * KIB, 20 * KIB, 40 * KIB])
        offset = self.random.randrange(MAX_FILE - length)
        if self.random.random() < 0.6:
            offset = min(len(content), offset)
        data = self.random.randbytes(length)
        if offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset : offset + length] = data
        self.disk.mark(("changed", inode, bytes(content)))
        await self.lab.vfs.files.write(handle, offset, data)

    async def fsync(self) -> None:
        if (name := self._pick()) is None:
            return
        inode, handle, content = self.files[name]
        await self.lab.vfs.files.fsync(handle)
        self.disk.mark(("fsynced", inode, bytes(content)))

    async def truncate(self) -> None:
        if (name := self._pick()) is None:
            return
        inode, _, content = self.files[name]
        size = self.random.randrange(MAX_FILE)
        if size < len(content):
            del content[size:]
        else:
            content.extend(bytes(size - len(content)))
        self.disk.mark(("changed", inode, bytes(content)))
        attributes = self.lab.vfs.attributes
        await attributes.truncate(await attributes.get(inode), size)

    async def unlink(self) -> None:
        if (name := self._pick()) is None:
            return
        inode, handle, _ = self.files.pop(name)
        self.disk.mark(("unlinking", inode))
        self.lab.vfs.files.release(handle)
        await self.lab.vfs.names.unlink(ROOT_INODE, name)

    async def replace(self) -> None:
        source, target = self._pick(), self._pick()
        if source is None or target is None or source == target:
            return
        inode, handle, _ = self.files[target]
        self.disk.mark(("unlinking", inode))
        self.lab.vfs.files.release(handle)
        self.files[target] = self.files.pop(source)
        await self.lab.vfs.names.rename(ROOT_INODE, source, ROOT_INODE, target, RenameFlag(0))


def truths(marks: list[object]) -> dict[int, FileTruth]:
    files: dict[int, FileTruth] = {}
    for what in marks:
        match what:
            case ("changed", int() as inode, bytes() as content):
                files.setdefault(inode, FileTruth()).later.append(content)
            case ("fsynced", int() as inode, bytes() as content):
                truth = files.setdefault(inode, FileTruth())
                truth.durable = content
                truth.later.clear()
            case ("unlinking", int() as inode):
                files.setdefault(inode, FileTruth()).gone = True
            case _:
                raise AssertionError(what)
    return files


async def check_files(lab: Lab, files: dict[int, FileTruth], where: str) -> None:
    for number, truth in files.items():
        try:
            handle = await lab.vfs.files.open(number, truncate=False, write=False, uid=0)
        except NotFound:
            if not (truth.gone or truth.durable is None):
                pytest.fail(f"{where}: inode {number} is not there")
            continue
        size = (await lab.vfs.attributes.get(number)).size
        found = bytes(await lab.vfs.files.read(handle, 0, size)) if size else b""
        lab.vfs.files.release(handle)
        assert len(found) == size, f"{where}: inode {number} is longer than its data"
        assert truth.allows(found), f"{where}: inode {number} holds what was never there"


async def check_stripes(lab: Lab, where: str) -> dict[StripeId, tuple[int, ...]]:
    """Every shard that the metadata places somewhere is there."""
    owners: dict[StripeId, tuple[int, ...]] = {}
    after = StripeId(-1)
    while rows := await scan_stripes(lab.engine, after, 500):
        for row in rows:
            owners[row.id] = tuple(row.placement.nodes)
            for shard, node in enumerate(row.placement.nodes):
                backend = lab.array.backend(node)
                if node == NO_NODE or backend is None:
                    continue
                try:
                    info = await backend.stat(ShardKey(row.id, shard))
                    await backend.get(ShardKey(row.id, shard), 0, info.length)
                except ShardMissing:
                    pytest.fail(f"{where}: metadata points at a shard that its node deleted")
        after = rows[-1].id
    return owners


async def check_recovered(root: Path, files: dict[int, FileTruth], where: str) -> None:
    async with open_lab(root, None, Random(1)) as lab:
        await check_stripes(lab, where)
        await check_files(lab, files, where)
        counted = await recount(lab.engine)
        assert counted.sound, f"{where}: {counted}"
        for orphan in await Extents(lab.engine, lab.session).orphans():
            await lab.vfs._extents.reap(InodeNumber(orphan))
        await lab.collect_garbage()
        owners = await check_stripes(lab, where)
        for number in range(1, NODES + 1):
            backend = lab.array.backend(number)  # type: ignore[arg-type]
            assert backend is not None
            for info in await backend.list(None, 10_000):
                placed = owners.get(info.key.stripe)
                assert placed is not None, f"{where}: orphan shard {info.key} on node {number}"
                assert placed[info.key.shard] == number, f"{where}: stray {info.key} on {number}"
        await check_files(lab, files, where)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    shared_memory = Path("/dev/shm")
    if not os.access(shared_memory, os.W_OK):
        return tmp_path
    return shared_memory / f"rainfs-crash-{os.getpid()}"


@pytest.mark.parametrize("seed", range(2))
async def test_a_power_cut_of_everything_loses_no_fsynced_byte(
    scratch: Path, seed: int, request: pytest.FixtureRequest
) -> None:
    print(f"seed {seed}")
    points = LONG_POINTS if request.config.getoption("--long") else POINTS
    live, after = scratch / "live", scratch / "after"
    try:
        disk = RecordingDisk(live)
        await make_volume(live, disk)
        start = len(disk.log.operations)
        async with open_lab(live, disk, Random(seed), flush=False) as lab:
            await Workload(lab, disk, Random(seed)).run(OPERATIONS)
            stop = len(disk.log.operations)
        random = Random(seed)
        for point in sample(range(start, stop + 1), points, random):
            for survival in SURVIVALS:
                where = f"seed {seed}, operation {point} of {stop}, {survival.value} survives"
                disk.log.crash(point, survival, random).write_to(after)
                with trio.fail_after(60):
                    await check_recovered(after, truths(disk.log.marks(point)), where)
                shutil.rmtree(after)
        disk.close_vfs()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
