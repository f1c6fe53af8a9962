"""Moving extents: bytes keep their content whatever happened since they were copied."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from random import Random

import pytest

from rainfs.care.repacking import NewBlock, distinct, new_blocks, new_stripes
from rainfs.errors import SessionLost
from rainfs.meta import moving
from rainfs.meta.engine import MAX_TRANSACTION_KEYS
from rainfs.meta.moving import Run, live_runs, move
from rainfs.meta.stripes import scan_stripes, tombstones
from rainfs.model import KIB, ROOT_INODE, Extent, InodeNumber, StripeId
from tests.model.recount import recount
from tests.unit.meta.rig import Rig, open_rig, view_of

BLOCK = 1_000
Origin = tuple[int, int, int]
"""Where a byte was written first: stripe, block, offset in the block."""


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with open_rig() as made:
        yield made
        assert (await recount(made.engine)).sound


async def extents_of(rig: Rig, inode: InodeNumber) -> list[Extent]:
    return await rig.extents.find(inode, 0, 1 << 40, limit=100_000)


async def runs_of(rig: Rig, *stripes: StripeId) -> list[Run]:
    found: list[Run] = []
    for stripe in stripes:
        view = await rig.extents.view(stripe)
        if view is not None:
            found += await live_runs(rig.engine, view)
    return found


async def put(rig: Rig, blocks: Sequence[NewBlock]) -> tuple[StripeId, int]:
    stripe = rig.session.next_stripe()
    view = view_of(stripe, [(block.inode, block.start, block.length) for block in blocks])
    moved = await move(rig.engine, rig.session, view, [block.runs for block in blocks])
    rig.session.settle(stripe)
    return stripe, moved


async def test_pieces_of_many_stripes_become_one_extent_in_a_new_one(rig: Rig) -> None:
    file = await rig.make(b"file")
    old = await rig.write((file.inode, 0, 900))
    new = await rig.write((file.inode, 300, 100))
    before = await rig.names.getattr(file.inode)
    (block,) = new_blocks(distinct(await runs_of(rig, old, new)), BLOCK)
    stripe, moved = await put(rig, [block])
    assert moved == 900
    assert await extents_of(rig, file.inode) == [Extent(0, 900, stripe, 0, 0)]
    assert [stone for stone, _ in await tombstones(rig.engine, 10)] == [old, new]
    assert await rig.names.getattr(file.inode) == before


async def test_bytes_written_since_they_were_copied_stay_as_they_are(rig: Rig) -> None:
    file = await rig.make(b"file")
    old = await rig.write((file.inode, 0, 900))
    (block,) = new_blocks(distinct(await runs_of(rig, old)), BLOCK)
    later = await rig.write((file.inode, 300, 100))
    stripe, moved = await put(rig, [block])
    assert moved == 800
    assert await extents_of(rig, file.inode) == [
        Extent(0, 300, stripe, 0, 0),
        Extent(300, 100, later, 0, 0),
        Extent(400, 500, stripe, 0, 400),
    ]
    rows = {
        row.id: (row.live_bytes, row.born_bytes) for row in await scan_stripes(rig.engine, None, 9)
    }
    assert rows == {later: (100, 100), stripe: (800, 900)}


async def test_bytes_cut_off_or_gone_since_are_dead_in_the_new_stripe(rig: Rig) -> None:
    short, gone = await rig.make(b"short"), await rig.make(b"gone")
    old = await rig.write((short.inode, 0, 900), (gone.inode, 0, 700))
    blocks = list(new_blocks(distinct(await runs_of(rig, old)), BLOCK))
    await rig.extents.truncate(short.inode, 250, now_ns=1)
    await rig.names.unlink(ROOT_INODE, b"gone", now_ns=1)
    await rig.extents.reap(gone.inode)
    stripe, moved = await put(rig, blocks)
    assert moved == 250
    assert await extents_of(rig, short.inode) == [Extent(0, 250, stripe, 0, 0)]


async def test_a_stripe_of_which_nothing_could_be_moved_is_garbage_at_once(rig: Rig) -> None:
    file = await rig.make(b"file")
    old = await rig.write((file.inode, 0, 900))
    blocks = list(new_blocks(distinct(await runs_of(rig, old)), BLOCK))
    later = await rig.write((file.inode, 0, 900))
    stripe, moved = await put(rig, blocks)
    assert moved == 0
    assert [stone for stone, _ in await tombstones(rig.engine, 10)] == [old, stripe]
    assert [extent.stripe for extent in await extents_of(rig, file.inode)] == [later]


async def test_the_same_bytes_moved_twice_stay_where_they_were_moved_first(rig: Rig) -> None:
    file = await rig.make(b"file")
    old = await rig.write((file.inode, 0, 900))
    blocks = list(new_blocks(distinct(await runs_of(rig, old)), BLOCK))
    first, _ = await put(rig, blocks)
    second, moved = await put(rig, blocks)
    assert moved == 0
    assert [extent.stripe for extent in await extents_of(rig, file.inode)] == [first]
    assert second in [stone for stone, _ in await tombstones(rig.engine, 10)]


async def test_an_extent_that_two_new_blocks_share_is_cut_between_them(rig: Rig) -> None:
    file = await rig.make(b"file")
    old = await rig.write((file.inode, 700, 900))
    blocks = list(new_blocks(distinct(await runs_of(rig, old)), BLOCK))
    assert [(block.start, block.stop) for block in blocks] == [(700, 1_000), (1_000, 1_600)]
    first, _ = await put(rig, blocks[:1])
    second, _ = await put(rig, blocks[1:])
    assert await extents_of(rig, file.inode) == [
        Extent(700, 300, first, 0, 0),
        Extent(1_000, 600, second, 0, 0),
    ]


async def test_an_ended_session_moves_nothing(rig: Rig) -> None:
    file = await rig.make(b"file")
    old = await rig.write((file.inode, 0, 900))
    blocks = list(new_blocks(distinct(await runs_of(rig, old)), BLOCK))
    await rig.session.end()
    with pytest.raises(SessionLost):
        await put(rig, blocks)
    assert [extent.stripe for extent in await extents_of(rig, file.inode)] == [old]


async def test_a_move_of_the_largest_size_fits_a_transaction(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every run in a stripe of its own, and every extent cut in two since it was looked at."""
    runs = moving.MAX_MOVED_RUNS
    file = await rig.make(b"file")
    stripes = [await rig.write((file.inode, 8 * number, 8)) for number in range(runs)]
    found = distinct(await runs_of(rig, *stripes))
    assert len(found) == runs
    with pytest.raises(ValueError, match="runs"):
        await put(rig, [NewBlock(file.inode, 0, 8, (found[0],) * (runs + 1))])
    cut = sorted(Random(1).sample(range(runs), 200))
    await rig.write(*((file.inode, 8 * number + 3, 1) for number in cut))
    largest = 0
    run = rig.engine.run

    async def watched(body):  # type: ignore[no-untyped-def]
        async def counted(transaction):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = await body(transaction)
            largest = max(largest, len(transaction.pending))
            return result

        return await run(counted)

    monkeypatch.setattr(rig.engine, "run", watched)
    _, moved = await put(rig, list(new_blocks(found, 1 << 20)))
    assert 0 < moved <= 8 * runs - len(cut)
    assert largest <= MAX_TRANSACTION_KEYS


@pytest.mark.parametrize("seed", range(12))
async def test_random_moves_between_random_writes_keep_every_byte(rig: Rig, seed: int) -> None:
    print(f"seed {seed}")
    random = Random(seed)
    size = 6 * KIB
    files = [await rig.make(b"%d" % number) for number in range(3)]
    truth: dict[int, list[Origin | None]] = {file.inode: [] for file in files}
    first_home: dict[tuple[int, int, int], Origin] = {}
    """For each byte of a stripe that a move made: where that byte was written first."""
    stripes: list[StripeId] = []
    copied: list[list[NewBlock]] = []

    async def write() -> None:
        blocks = []
        for _ in range(random.randrange(1, 5)):
            inode = random.choice(files).inode
            length = random.choice([1, 10, 300, BLOCK])
            blocks.append((inode, random.randrange(size - length), length))
        stripe = await rig.write(*blocks)
        stripes.append(stripe)
        for index, (inode, offset, length) in enumerate(blocks):
            bytes_ = truth[inode]
            bytes_.extend([None] * (offset + length - len(bytes_)))
            bytes_[offset : offset + length] = [(stripe, index, at) for at in range(length)]

    async def copy() -> None:
        some = random.sample(stripes, min(len(stripes), random.randrange(1, 12)))
        runs = distinct(await runs_of(rig, *some))
        copied.extend(new_stripes(new_blocks(runs, BLOCK), 3 * BLOCK, most_blocks=4, most_runs=9))

    async def put_one() -> None:
        if not copied:
            return
        blocks = copied.pop(random.randrange(len(copied)))
        stripe, _ = await put(rig, blocks)
        stripes.append(stripe)
        for index, block in enumerate(blocks):
            for run in block.runs:
                for position in range(run.start, run.stop):
                    home = (int(run.stripe), run.block, position - run.base)
                    first_home[stripe, index, position - block.start] = first_home.get(home, home)

    async def truncate() -> None:
        inode = random.choice(files).inode
        to = random.randrange(size)
        await rig.extents.truncate(inode, to, now_ns=rig.tick())
        bytes_ = truth[inode]
        del bytes_[to:]
        bytes_.extend([None] * (to - len(bytes_)))

    for _ in range(120):
        await random.choice([write, write, copy, put_one, put_one, truncate])()
    for file in files:
        found: list[Origin | None] = [None] * len(truth[file.inode])
        for extent in await extents_of(rig, file.inode):
            for step in range(extent.length):
                home = (int(extent.stripe), extent.block, extent.block_offset + step)
                found[extent.offset + step] = first_home.get(home, home)
        assert found == truth[file.inode]


def test_runs_that_overlap_are_copied_once() -> None:
    inode, stripe = InodeNumber(2), StripeId(1)
    runs = [Run(inode, 0, 50, stripe, 0, 0), Run(inode, 20, 30, stripe, 1, 20)]
    runs.append(Run(inode, 40, 80, stripe, 2, 40))
    assert [(run.start, run.stop, run.block) for run in distinct(runs)] == [(0, 50, 0), (50, 80, 2)]


def test_new_stripes_stay_within_their_bounds() -> None:
    stripe = StripeId(1)
    runs = [Run(InodeNumber(2), at, at + 1, stripe, at, at) for at in range(100)]
    blocks = list(new_blocks(runs, 40))
    assert [(block.start, block.stop) for block in blocks] == [(0, 40), (40, 80), (80, 100)]
    dealt = list(new_stripes(blocks, 60, most_runs=30))
    assert [[(b.start, b.stop) for b in stripe] for stripe in dealt] == [
        [(0, 30)],
        [(30, 40)],
        [(40, 70)],
        [(70, 80), (80, 100)],
    ]
