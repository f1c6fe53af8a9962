"""Power cuts of a whole volume, nodes and metadata, lose no byte and no name that was promised.

A workload is recorded once; then the power goes at many points of the record, in many weathers, and
each time the volume is mounted again from what the disks kept.  Every promise is checked: names and
bytes (`oracle`), a sound metadata database, no stripe whose shards are gone, no orphan shard after
garbage collection.  Some of the recovered volumes are worked on and lose power again, at any point
of the recovery or after it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
import trio

from rainfs.care import fsck
from rainfs.errors import ShardMissing
from rainfs.meta.engine import Engine
from rainfs.meta.extents import Extents
from rainfs.meta.stripes import scan_stripes, tombstones
from rainfs.model import NO_NODE, NodeNumber, ShardKey, StripeId
from tests.model.recount import recount
from tests.simulation.disk import RecordingDisk
from tests.simulation.oracle import Recovered, Truth, read_volume
from tests.simulation.power import (
    EVERYTHING,
    MIXED,
    NOTHING,
    RANDOM,
    TORN,
    CrashState,
    Survival,
    sample,
)
from tests.simulation.whole import Lab, make_volume, open_lab
from tests.simulation.workload import Workload

OPERATIONS = 90
LONG_OPERATIONS = 240
LONG_SEEDS = 20
LONG_POINTS = 60
LONG_WEATHERS = 7
NESTED_OPERATIONS = 10
PATIENCE_S = 900
MAX_SHARDS = 100_000
"""More than any node holds here."""

THOROUGH_EVERY = 4
"""One state in so many is read once more after garbage collection."""

METADATA = ""
"""The device of the metadata database."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What a power cut does to the machines."""

    name: str
    metadata: Survival
    nodes: Survival
    hit: int | None = None
    """Of how many nodes `nodes` tells; the others lose nothing.  None means all."""
    burnt: bool = False
    """Whether as many nodes as there are parities lose their disks as well."""

    @property
    def alive(self) -> bool:
        """Whether the metadata's host has lost nothing, as when its processes were killed."""
        return self.metadata is EVERYTHING


WEATHERS = (
    Weather("every process is killed", EVERYTHING, EVERYTHING),
    Weather("nothing unsynced survives", NOTHING, NOTHING),
    Weather("everything unsynced is torn", TORN, TORN),
    Weather("each machine in its own way", MIXED, MIXED),
    Weather("only the metadata's host", NOTHING, EVERYTHING),
    Weather("only the metadata's host, at random", RANDOM, EVERYTHING),
    Weather("only the nodes", EVERYTHING, NOTHING),
    Weather("only the nodes, in their own ways", EVERYTHING, MIXED),
    Weather("one node alone", EVERYTHING, NOTHING, hit=1),
    Weather("one node alone, torn", EVERYTHING, TORN, hit=1),
    Weather("some nodes burn, the others are torn", MIXED, MIXED, burnt=True),
    Weather("some nodes burn, everything else lives", EVERYTHING, EVERYTHING, burnt=True),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """A volume to simulate."""

    k: int
    m: int
    nodes: int


SHAPES = (Shape(2, 1, 4), Shape(2, 2, 5), Shape(3, 1, 4))


@dataclass(frozen=True, slots=True)
class Record:
    """A run that has been recorded, and what it promised."""

    disk: RecordingDisk
    points: range
    start: Recovered | None
    workload: Workload
    shape: Shape

    def truth(self, point: int) -> Truth:
        """Return the promises of the moment."""
        truth = Truth(self.workload.trees)
        if self.start is not None:
            truth.versions = {inode: [data] for inode, data in self.start.contents.items()}
        for mark in self.disk.log.marks(point):
            truth.note(mark)
        return truth

    def states(
        self, point: int, weather: Weather, random: Random
    ) -> tuple[CrashState, frozenset[str]]:
        """Return what is left, and which nodes have burnt."""
        nodes = [f"node-{number}" for number in range(1, self.shape.nodes + 1)]
        hit = nodes if weather.hit is None else random.sample(nodes, weather.hit)
        burnt = frozenset(random.sample(nodes, self.shape.m) if weather.burnt else ())
        log = self.disk.log
        shared = weather.metadata is weather.nodes and weather.hit is None
        if shared:
            state = log.crash(point, weather.metadata, random)
        else:
            # Drawn apart: the nodes' way and the metadata's have nothing to do with each other.
            of_nodes = log.crash(point, weather.nodes, random, devices=hit)
            of_metadata = log.crash(point, weather.metadata, random, devices=[METADATA])
            state = of_metadata.with_devices(nodes, of_nodes)
        return state.without(burnt), burnt


async def check_stripes(
    lab: Lab, burnt: frozenset[str], where: str
) -> dict[StripeId, tuple[NodeNumber, ...]]:
    """Every shard that the metadata places on a disk that is there is there, and readable."""
    owners: dict[StripeId, tuple[NodeNumber, ...]] = {}
    after = StripeId(-1)
    while rows := await scan_stripes(lab.engine, after, 500):
        for row in rows:
            owners[row.id] = row.placement.nodes
            for shard, node in enumerate(row.placement.nodes):
                if node == NO_NODE or f"node-{node}" in burnt:
                    continue
                backend = lab.array.backend(node)
                assert backend is not None
                try:
                    info = await backend.stat(ShardKey(row.id, shard))
                    await backend.get(ShardKey(row.id, shard), 0, info.length)
                except ShardMissing:
                    pytest.fail(f"{where}: metadata points at a shard that its node deleted")
        after = rows[-1].id
    return owners


async def check_no_garbage(
    lab: Lab, owners: dict[StripeId, tuple[NodeNumber, ...]], where: str
) -> None:
    """After garbage collection nodes hold nothing that no stripe places there."""
    assert not await tombstones(lab.engine, 1), f"{where}: a tombstone stays"
    for number in await lab.numbers():
        backend = lab.array.backend(number)
        assert backend is not None
        for info in await backend.list(None, MAX_SHARDS):
            placed = owners.get(info.key.stripe)
            assert placed is not None, f"{where}: orphan shard {info.key} on node {number}"
            assert placed[info.key.shard] == number, f"{where}: stray {info.key} on {number}"


async def check_no_leak(lab: Lab, seen: set[int], where: str) -> None:
    """Shards of a stripe that was committed have an owner, or a tombstone that will end them.

    Only garbage collection would find others.  Holds where the metadata lost nothing.
    """
    held: dict[StripeId, NodeNumber] = {}
    for number in await lab.numbers():
        backend = lab.array.backend(number)
        assert backend is not None
        held |= {info.key.stripe: number for info in await backend.list(None, MAX_SHARDS)}
    known = {row.id for row in await scan_stripes(lab.engine, None, MAX_SHARDS)}
    known |= {stripe for stripe, _ in await tombstones(lab.engine, MAX_SHARDS)}
    leaked = {stripe: node for stripe, node in held.items() if stripe in seen - known}
    assert not leaked, f"{where}: shards that nothing will delete: {leaked}"


async def check_metadata(engine: Engine) -> None:
    """What `rainfs fsck` checks first, and its second opinion of the sums."""
    report = await fsck.check(engine)
    assert report.clean, f"fsck: {report.findings}"
    counted = await recount(engine)
    assert counted.sound, f"the metadata does not fit together: {counted}"


async def check_everything(lab: Lab, burnt: frozenset[str]) -> None:
    """What `rainfs fsck` says of metadata and nodes after `rainfs gc`."""
    backends = {number: lab.array.backend(number) for number in await lab.numbers()}
    report = await fsck.check(lab.engine, {n: b for n, b in backends.items() if b is not None})
    assert report.clean, f"fsck: {report.findings}"
    assert report.shards is not None
    assert len(report.shards.unreachable) == len(burnt)
    if not burnt:
        assert (report.shards.unchecked, report.shards.garbage) == (0, 0), report.shards


async def check_recovered(
    root: Path,
    truth: Truth,
    weather: Weather,
    burnt: frozenset[str],
    where: str,
    *,
    thorough: bool,
) -> Recovered:
    """Mount what is left, hold it against the promises, clean up; `thorough` looks twice."""
    async with open_lab(root, None, Random(1), inspect=check_metadata) as lab:
        await check_stripes(lab, burnt, where)
        if weather.alive and not burnt:
            await check_no_leak(lab, truth.seen, where)
        found = await read_volume(lab)
        try:
            truth.judge(found, alive=weather.alive)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error
        extents = Extents(lab.engine, lab.session)
        for orphan in await extents.orphans():
            await extents.reap(orphan)
        await lab.collect_garbage()
        owners = await check_stripes(lab, burnt, where)
        if not burnt:
            await check_no_garbage(lab, owners, where)
        if thorough:
            await check_everything(lab, burnt)
            assert await read_volume(lab) == found, f"{where}: garbage collection changed a file"
    return found


class Simulation:
    """All states of one seed; `states` counts them."""

    def __init__(
        self,
        scratch: Path,
        seed: int,
        *,
        operations: int = OPERATIONS,
        threads: bool = False,
    ) -> None:
        self.scratch = scratch
        self.operations = operations
        self.seed = seed
        self.random = Random(seed)
        self.threads = threads
        self.states = 0

    async def record(self) -> Record:
        """Make a volume and use it in two mounts, the second of which never ends."""
        live = self.scratch / "live"
        shape = SHAPES[self.seed % len(SHAPES)]
        disk = RecordingDisk(live)
        await make_volume(live, disk, k=shape.k, m=shape.m, count=shape.nodes)
        start = len(disk.log.operations)
        workload = Workload(disk, self.random)
        async with open_lab(live, disk, self.random, threads=self.threads) as lab:
            await workload.run(lab, self.operations // 2)
        async with open_lab(live, disk, self.random, flush=False, threads=self.threads) as lab:
            await workload.run(lab, self.operations // 2)
            stop = len(disk.log.operations)
        return Record(disk, range(start, stop + 1), None, workload, shape)

    async def check(
        self, record: Record, point: int, weather: Weather, where: str
    ) -> tuple[CrashState, Recovered]:
        """Check one state."""
        where = f"{where}, operation {point} of {record.points[-1]}, {weather.name}"
        after = self.scratch / "after"
        state, burnt = record.states(point, weather, self.random)
        state.write_to(after)
        try:
            with trio.fail_after(PATIENCE_S):
                found = await check_recovered(
                    after,
                    record.truth(point),
                    weather,
                    burnt,
                    where,
                    thorough=self.states % THOROUGH_EVERY == 0,
                )
        finally:
            shutil.rmtree(after, ignore_errors=True)
        self.states += 1
        return state, found

    async def record_again(self, state: CrashState, found: Recovered, shape: Shape) -> Record:
        """Recover from a state and go on, recorded from the first operation of the recovery."""
        again = self.scratch / "again"
        state.write_to(again)
        disk = RecordingDisk(again)
        workload = Workload(disk, self.random, found, serial=1)
        async with open_lab(again, disk, self.random, flush=False) as lab:
            await workload.run(lab, NESTED_OPERATIONS)
            stop = len(disk.log.operations)
        return Record(disk, range(stop + 1), found, workload, shape)

    async def run(self, points: int, weathers: int, *, nested_every: int) -> None:
        """Crash at so many points in so many weathers; some states are crashed once more."""
        where = f"seed {self.seed}"
        record = await self.record()
        for number, point in enumerate(sample(record.points, points, self.random)):
            chosen = self.random.sample(WEATHERS, weathers)
            # The last one may be followed by another crash, for which all disks are needed.
            chosen.sort(key=lambda weather: not weather.burnt)
            for weather in chosen:
                state, found = await self.check(record, point, weather, where)
            if number % nested_every == nested_every - 1 and not weather.burnt:
                again = await self.record_again(state, found, record.shape)
                inner = f"{where}, operation {point}, {weather.name}, then"
                for second in sample(again.points, weathers, self.random):
                    await self.check(again, second, self.random.choice(WEATHERS), inner)
                again.disk.close_vfs()
                shutil.rmtree(self.scratch / "again")
        record.disk.close_vfs()


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where there is such a thing."""
    shared_memory = Path("/dev/shm")
    path = tmp_path
    if os.access(shared_memory, os.W_OK):
        path = shared_memory / f"rainfs-crash-{os.getpid()}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize("seed", range(3))
async def test_a_power_cut_loses_nothing_that_was_promised(scratch: Path, seed: int) -> None:
    print(f"seed {seed}")
    simulation = Simulation(scratch, seed)
    await simulation.run(14, 4, nested_every=5)
    assert simulation.states > 56


async def test_a_power_cut_amid_threads_loses_nothing_that_was_promised(scratch: Path) -> None:
    seed = Random().randrange(1 << 32)
    print(f"seed {seed}; threads make every run different")
    await Simulation(scratch, seed, threads=True).run(8, 3, nested_every=100)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 100 + LONG_SEEDS))
async def test_ten_thousand_power_cuts_lose_nothing_that_was_promised(
    scratch: Path, seed: int
) -> None:
    print(f"seed {seed}")
    simulation = Simulation(scratch, seed, operations=LONG_OPERATIONS, threads=seed % 5 == 4)
    await simulation.run(LONG_POINTS, LONG_WEATHERS, nested_every=4)
    assert simulation.states >= 10_000 // LONG_SEEDS
