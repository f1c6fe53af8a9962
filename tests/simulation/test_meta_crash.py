"""A power cut at any operation of the metadata database loses no commit that was durable."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import trio

from rainfs.meta.engine import Reader, Transaction
from rainfs.meta.extents import Extents
from rainfs.meta.namespace import Namespace
from rainfs.meta.sessions import Session
from rainfs.meta.sqlite import SqliteEngine
from rainfs.meta.volume import format_volume, open_volume
from rainfs.model import ROOT_INODE, InodeNumber
from tests.model.recount import recount
from tests.simulation.disk import RecordingDisk
from tests.simulation.power import EVERYTHING, NOTHING, PREFIX, RANDOM, TORN, sample
from tests.unit.meta.rig import FILE, LAYOUT, Rig

SURVIVALS = (NOTHING, EVERYTHING, PREFIX, RANDOM, TORN)
POINTS = 20
LONG_POINTS = 400
COMMITS = 120
CHANGES = 25
WAKE_PAGES = 30
"""So low that checkpoints and restarts of the log happen during the run."""


Names = frozenset[tuple[bytes, InodeNumber]]


async def counter_run(disk: RecordingDisk, random: Random) -> None:
    """Commit numbers 1, 2, ...; each also rewrites some rows, so that a torn mix would show."""
    engine = SqliteEngine(
        disk.root / "kv.db", create=True, vfs=disk.vfs, files=disk, wake_pages=WAKE_PAGES
    )
    disk.mark(("made", 0))
    for number in range(1, COMMITS + 1):
        value = str(number).encode()
        rows = [bytes((65 + random.randrange(8),)) for _ in range(3)]

        async def body(
            transaction: Transaction, value: bytes = value, rows: list[bytes] = rows
        ) -> None:
            transaction.put(b"n", value)
            for row in rows:
                transaction.put(row, value + b" " * random.randrange(3_000))
            transaction.put(b"log" + value.zfill(8), b",".join(rows))

        await engine.run(body)
        if random.random() < 0.3:
            await engine.durable()
            disk.mark(("durable", number))
    await engine.aclose()
    disk.mark(("durable", COMMITS))
    again = SqliteEngine(disk.root / "kv.db", vfs=disk.vfs, files=disk, wake_pages=WAKE_PAGES)

    async def last(transaction: Transaction) -> None:
        transaction.put(b"n", str(COMMITS + 1).encode())
        transaction.put(b"log" + str(COMMITS + 1).zfill(8).encode(), b"")

    await again.run(last)
    await again.durable()
    disk.mark(("durable", COMMITS + 1))
    again.close()


async def check_counter(directory: Path, durable: int) -> None:
    engine = SqliteEngine(directory / "kv.db")

    async def body(reader: Reader) -> dict[bytes, bytes]:
        return dict(await reader.scan(b"", b"\xff", limit=100_000))

    rows = await engine.read(body)
    engine.close()
    last = int(rows.pop(b"n", b"0"))
    assert last >= durable
    wanted: dict[bytes, bytes] = {}
    for number in range(1, last + 1):
        names = rows.pop(b"log" + str(number).zfill(8).encode())
        wanted.update({name: str(number).encode() for name in names.split(b",") if name})
    assert {key: value.rstrip(b" ") for key, value in rows.items()} == wanted


def test_commits_are_a_prefix_that_holds_all_durable_ones(tmp_path: Path, long_form: bool) -> None:
    seed = Random().randrange(1 << 32)
    print(f"seed {seed}")
    random = Random(seed)
    disk = RecordingDisk(tmp_path / "live")
    trio.run(counter_run, disk, random)
    disk.close_vfs()
    log = disk.log
    for point in sample(log.points(), LONG_POINTS if long_form else POINTS, random):
        marks = log.marks(point)
        if not marks:
            continue
        durable = max(number for _, number in marks)  # type: ignore[misc]
        for survival in SURVIVALS:
            after = tmp_path / "after"
            log.crash(point, survival, random).write_to(after)
            try:
                trio.run(check_counter, after, durable)
            except BaseException:
                print(f"crash at {point} of {len(log.points()) - 1}, survives {survival}")
                raise
            shutil.rmtree(after)


async def volume_run(disk: RecordingDisk, random: Random, states: list[Names]) -> None:
    """Sessions that make, write, truncate, rename and remove files, with a durable now and then.

    `states` gets what the root directory held after each change.
    """
    path = disk.root / "rain.db"
    engine = SqliteEngine(path, create=True, vfs=disk.vfs, files=disk, wake_pages=WAKE_PAGES)
    volume = await format_volume(engine, name="v", layout=LAYOUT, nodes=[])
    disk.mark(("formatted", 0))
    files: dict[bytes, InodeNumber] = {}
    states.append(frozenset())
    for _ in range(3):
        session = await Session.begin(engine, read_only=False, mountpoint="/m")
        disk.mark(("epoch", session.epoch))
        extents = Extents(engine, session)
        rig = Rig(engine, volume, session, Namespace(engine, session), extents)
        for inode in await extents.orphans():
            await extents.reap(inode)
        for number in range(CHANGES):
            name = b"%d-%d" % (session.epoch, number)
            choice = random.random()
            if choice < 0.4 or not files:
                files[name] = (await rig.make(name)).inode
                disk.mark(("inode", files[name]))
            elif choice < 0.7:
                inode = random.choice(list(files.values()))
                await rig.write((inode, random.randrange(9000), 1 + random.randrange(5000)))
            elif choice < 0.8:
                inode = random.choice(list(files.values()))
                await extents.truncate(inode, random.randrange(9000), now_ns=rig.tick())
            elif choice < 0.9:
                old = random.choice(list(files))
                await rig.names.rename(ROOT_INODE, old, ROOT_INODE, name, now_ns=rig.tick())
                files[name] = files.pop(old)
            else:
                old = random.choice(list(files))
                await rig.names.unlink(ROOT_INODE, old, now_ns=rig.tick())
                files.pop(old)
            states.append(frozenset(files.items()))
            if random.random() < 0.2:
                await engine.durable()
                disk.mark(("durable", len(states) - 1))
        await session.publish()
        if random.random() < 0.5:
            await session.end()
        elif session._lock is not None:
            session._lock.release()  # The mount dies; its row stays.
    await engine.aclose()


async def check_volume(directory: Path, marks: list[object], states: list[Names]) -> None:
    engine = SqliteEngine(directory / "rain.db")
    await open_volume(engine)
    assert (await recount(engine)).sound
    session = await Session.begin(engine, read_only=False, mountpoint="/after")
    names = Namespace(engine, session)
    extents = Extents(engine, session)
    listing = await names.readdir(ROOT_INODE, 0, 10_000)
    durable = max((number for kind, number in marks if kind == "durable"), default=0)  # type: ignore[misc]
    assert frozenset((e.name, e.attr.inode) for e in listing) in states[durable:]
    assert ("epoch", session.epoch) not in marks
    fresh = await names.make(ROOT_INODE, b"fresh", mode=FILE, uid=0, gid=0, now_ns=1)
    assert ("inode", fresh.inode) not in marks
    for entry in listing:
        attr = entry.attr
        assert await names.lookup(ROOT_INODE, entry.name) == attr
        assert attr.nlink == 1
        for extent in await extents.find(attr.inode, 0, 1 << 40, limit=10_000):
            view = await extents.view(extent.stripe)
            assert view is not None
            block = view.stripe.blocks[extent.block]
            assert block.inode == attr.inode
            assert block.file_offset + extent.block_offset == extent.offset
    while orphans := await extents.orphans():
        for inode in orphans:
            assert (await names.getattr(inode)).nlink == 0
            await extents.reap(inode)
    assert (await recount(engine)).sound
    await session.end()
    await engine.aclose()


def test_a_volume_is_whole_after_any_power_cut(tmp_path: Path, long_form: bool) -> None:
    seed = Random().randrange(1 << 32)
    print(f"seed {seed}")
    random = Random(seed)
    disk = RecordingDisk(tmp_path / "live")
    states: list[Names] = []
    trio.run(volume_run, disk, random, states)
    disk.close_vfs()
    log = disk.log
    for point in sample(log.points(), LONG_POINTS if long_form else POINTS, random):
        marks = log.marks(point)
        if not marks:
            continue
        for survival in SURVIVALS:
            after = tmp_path / "after"
            log.crash(point, survival, random).write_to(after)
            try:
                trio.run(check_volume, after, marks, states)
            except BaseException:
                print(f"crash at {point} of {len(log.points()) - 1}, survives {survival}")
                raise
            shutil.rmtree(after)
