"""Commits, truncation and freeing against a model of bytes; live bytes are counted anew."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random

import pytest

from rainfs.errors import FileTooLarge, InvalidArgument, IsDirectory, NotFound, TransactionConflict
from rainfs.meta import committing, extents
from rainfs.meta.engine import MAX_TRANSACTION_KEYS
from rainfs.meta.extents import MAX_BLOCKS_PER_STRIPE, Extents, FileUpdate
from rainfs.meta.memory import MemoryEngine
from rainfs.meta.sessions import Session
from rainfs.meta.stripes import (
    StripeCounts,
    count_stripes,
    drop_tombstones,
    scan_stripes,
    tombstones,
)
from rainfs.model import KIB, MAX_FILE_BYTES, MIB, ROOT_INODE, InodeNumber, StripeId
from tests.model.recount import recount
from tests.unit.meta.rig import PLACEMENT, Rig, open_rig, view_of

Origin = tuple[int, int, int]
"""Where a byte comes from: stripe, block, offset in the block."""


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with open_rig() as made:
        yield made
        assert (await recount(made.engine)).sound


async def origins(rig: Rig, inode: InodeNumber, start: int, stop: int) -> list[Origin | None]:
    """Look every byte of a range up."""
    found: list[Origin | None] = [None] * (stop - start)
    previous_end = -1
    for extent in await rig.extents.find(inode, start, stop, limit=100_000):
        assert extent.length > 0
        assert extent.offset < stop
        assert extent.offset + extent.length > start
        assert extent.offset >= previous_end
        previous_end = extent.offset + extent.length
        for position in range(max(extent.offset, start), min(previous_end, stop)):
            offset = extent.block_offset + position - extent.offset
            found[position - start] = (extent.stripe, extent.block, offset)
    return found


async def test_a_committed_block_is_found(rig: Rig) -> None:
    file = await rig.make(b"file")
    stripe = await rig.write((file.inode, 4096, 8192))
    (found,) = await rig.extents.find(file.inode, 0, MIB, limit=10)
    assert (found.offset, found.length, found.stripe, found.block, found.block_offset) == (
        4096,
        8192,
        stripe,
        0,
        0,
    )
    attr = await rig.names.getattr(file.inode)
    assert (attr.size, attr.allocated, attr.mtime_ns) == (12288, 8192, rig.now_ns)
    view = await rig.extents.view(stripe)
    assert view == view_of(stripe, [(file.inode, 4096, 8192)])
    assert await rig.extents.find(file.inode, 0, 4096, limit=10) == []
    assert await rig.extents.find(file.inode, 12288, MIB, limit=10) == []
    assert len(await rig.extents.find(file.inode, 5000, 5001, limit=10)) == 1


async def test_blocks_of_many_files_share_a_stripe(rig: Rig) -> None:
    files = [await rig.make(b"%d" % number) for number in range(50)]
    stripe = await rig.write(*((file.inode, 0, 100 + file.inode) for file in files))
    for index, file in enumerate(files):
        (found,) = await rig.extents.find(file.inode, 0, MIB, limit=10)
        assert (found.stripe, found.block, found.length) == (stripe, index, 100 + file.inode)
    (row,) = await scan_stripes(rig.engine, None, 10)
    assert row.live_bytes == row.born_bytes == sum(100 + file.inode for file in files)


async def test_overwriting_the_middle_splits_an_extent(rig: Rig) -> None:
    file = await rig.make(b"file")
    old = await rig.write((file.inode, 0, 1000))
    new = await rig.write((file.inode, 300, 200))
    found = await rig.extents.find(file.inode, 0, 1000, limit=10)
    assert [(e.offset, e.length, e.stripe, e.block_offset) for e in found] == [
        (0, 300, old, 0),
        (300, 200, new, 0),
        (500, 500, old, 500),
    ]
    rows = await scan_stripes(rig.engine, None, 10)
    assert {row.id: row.live_bytes for row in rows} == {old: 800, new: 200}


async def test_an_old_extent_under_several_new_blocks_is_cut_by_each(rig: Rig) -> None:
    file = await rig.make(b"file")
    old = await rig.write((file.inode, 0, 1000))
    await rig.write((file.inode, 100, 50), (file.inode, 400, 100), (file.inode, 990, 30))
    found = await rig.extents.find(file.inode, 0, 2000, limit=10)
    kept = [(e.offset, e.length, e.block_offset) for e in found if e.stripe == old]
    assert kept == [(0, 100, 0), (150, 250, 150), (500, 490, 500)]


async def test_a_stripe_that_nothing_references_gets_a_tombstone(rig: Rig) -> None:
    file = await rig.make(b"file")
    old = await rig.write((file.inode, 0, 1000))
    await rig.write((file.inode, 0, 600))
    assert await tombstones(rig.engine, 10) == []
    await rig.write((file.inode, 600, 400))
    assert await tombstones(rig.engine, 10) == [(old, PLACEMENT)]
    assert await rig.extents.view(old) is None
    assert await count_stripes(rig.engine) == StripeCounts(2, 0, 1000, 1000, 1)
    await drop_tombstones(rig.engine, [old])
    assert await tombstones(rig.engine, 10) == []


async def test_blocks_of_a_file_that_is_gone_are_dead(rig: Rig) -> None:
    gone, kept = await rig.make(b"gone"), await rig.make(b"kept")
    await rig.names.unlink(ROOT_INODE, b"gone", now_ns=1, held=lambda _: False)
    stripe = await rig.write((gone.inode, 0, 1000), (kept.inode, 0, 500))
    (row,) = await scan_stripes(rig.engine, None, 10)
    assert (row.id, row.live_bytes, row.born_bytes) == (stripe, 500, 1500)
    dead = await rig.write((gone.inode, 0, 1000))
    assert await tombstones(rig.engine, 10) == [(dead, PLACEMENT)]


async def test_an_orphan_still_takes_commits(rig: Rig) -> None:
    file = await rig.make(b"file")
    await rig.names.unlink(ROOT_INODE, b"file", now_ns=1)
    await rig.write((file.inode, 0, 1000))
    assert (await rig.names.getattr(file.inode)).allocated == 1000


async def test_the_later_of_two_blocks_in_one_commit_wins(rig: Rig) -> None:
    file = await rig.make(b"file")
    first, second = rig.session.next_stripe(), rig.session.next_stripe()
    views = [
        view_of(first, [(file.inode, 0, 100), (file.inode, 50, 100)]),
        view_of(second, [(file.inode, 20, 10)]),
    ]
    await rig.extents.commit(views, [FileUpdate(file.inode, 150)])
    assert await origins(rig, file.inode, 0, 150) == [
        *((first, 0, offset) for offset in range(20)),
        *((second, 0, offset) for offset in range(10)),
        *((first, 0, offset) for offset in range(30, 50)),
        *((first, 1, offset) for offset in range(100)),
    ]


async def test_a_commit_never_shortens_a_file_and_leaves_times_it_is_not_given(rig: Rig) -> None:
    file = await rig.make(b"file")
    await rig.write((file.inode, 0, 1000))
    before = await rig.names.getattr(file.inode)
    stripe = rig.session.next_stripe()
    await rig.extents.commit([view_of(stripe, [(file.inode, 0, 10)])], [FileUpdate(file.inode, 10)])
    assert await rig.names.getattr(file.inode) == before
    await rig.extents.commit([], [FileUpdate(file.inode, 5000, 7, 8)])
    after = await rig.names.getattr(file.inode)
    assert (after.size, after.mtime_ns, after.ctime_ns, after.allocated) == (5000, 7, 8, 1000)


async def test_bytes_beyond_the_end_of_a_file_are_dead(rig: Rig) -> None:
    file = await rig.make(b"file")
    stripe = rig.session.next_stripe()
    view = view_of(stripe, [(file.inode, 0, 1000), (file.inode, 1000, 1000)])
    await rig.extents.commit([view], [FileUpdate(file.inode, 700)])
    (found,) = await rig.extents.find(file.inode, 0, 5000, limit=10)
    assert found.length == 700
    assert (await rig.names.getattr(file.inode)).size == 700


async def test_truncate_trims_the_block_at_the_new_end(rig: Rig) -> None:
    file = await rig.make(b"file")
    stripe = await rig.write((file.inode, 0, 1000), (file.inode, 1000, 1000))
    attr = await rig.extents.truncate(file.inode, 1300, now_ns=99)
    assert (attr.size, attr.allocated, attr.mtime_ns, attr.ctime_ns) == (1300, 1300, 99, 99)
    assert await rig.names.getattr(file.inode) == attr
    attr = await rig.extents.truncate(file.inode, 5000, now_ns=100)
    assert (attr.size, attr.allocated) == (5000, 1300)
    assert (await origins(rig, file.inode, 1299, 1301)) == [(stripe, 1, 299), None]
    attr = await rig.extents.truncate(file.inode, 0, now_ns=101)
    assert (attr.size, attr.allocated) == (0, 0)
    assert [one for one, _ in await tombstones(rig.engine, 10)] == [stripe]


async def test_truncate_refuses_what_has_no_such_size(rig: Rig) -> None:
    file = await rig.make(b"file")
    for inode, size, error in (
        (file.inode, MAX_FILE_BYTES + 1, FileTooLarge),
        (file.inode, -1, InvalidArgument),
        (ROOT_INODE, 0, IsDirectory),
        (99, 0, NotFound),
    ):
        with pytest.raises(error):
            await rig.extents.truncate(inode, size, now_ns=1)
    await rig.extents.truncate(file.inode, MAX_FILE_BYTES, now_ns=1)


async def test_reap_frees_an_orphan_only(rig: Rig) -> None:
    file = await rig.make(b"file")
    await rig.write((file.inode, 0, 1000))
    await rig.extents.reap(file.inode)
    assert (await rig.names.getattr(file.inode)).allocated == 1000
    await rig.names.setxattr(file.inode, b"user.a", b"1")
    await rig.names.unlink(ROOT_INODE, b"file", now_ns=1)
    await rig.extents.reap(file.inode)
    await rig.extents.reap(file.inode)
    with pytest.raises(NotFound):
        await rig.names.getattr(file.inode)
    assert len(await tombstones(rig.engine, 10)) == 1
    left = [key[:1] for key in rig.engine.rows]  # type: ignore[attr-defined]
    assert sorted(set(left)) == [b"A", b"C", b"F", b"I", b"L", b"T", b"V"]


async def test_orphans_of_a_dead_session_are_found_and_freed() -> None:
    engine = MemoryEngine()
    async with open_rig(engine) as rig:
        own = await rig.make(b"own")
        await rig.write((own.inode, 0, 10))
        await rig.names.unlink(ROOT_INODE, b"own", now_ns=1)
        assert await rig.extents.orphans() == []
        await engine.durable()
        engine.power_cut()
        later = await Session.begin(engine, read_only=False, mountpoint="/later")
        sweeper = Extents(engine, later)
        assert await sweeper.orphans() == [own.inode]
        await sweeper.reap(own.inode)
        assert await sweeper.orphans() == []
        assert (await recount(engine)).sound
        await later.end()


def test_a_full_step_stays_below_the_bound_of_a_transaction() -> None:
    pieces, old = committing.PIECES_PER_STEP, committing.OLD_EXTENTS_PER_STEP
    assert 4 * pieces + 6 * old <= MAX_TRANSACTION_KEYS
    assert 5 * extents.FREED_PER_STEP <= MAX_TRANSACTION_KEYS
    assert pieces >= MAX_BLOCKS_PER_STRIPE


async def test_a_block_over_thousands_of_tiny_extents_goes_in_steps(rig: Rig) -> None:
    file = await rig.make(b"file")
    count = 2_500
    for start in range(0, count, 1000):
        await rig.write(*((file.inode, 2 * i, 1) for i in range(start, min(start + 1000, count))))
    stripe = await rig.write((file.inode, 0, 2 * count))
    found = await origins(rig, file.inode, 0, 2 * count)
    assert found == [(stripe, 0, offset) for offset in range(2 * count)]
    attr = await rig.names.getattr(file.inode)
    assert (attr.size, attr.allocated) == (2 * count, 2 * count)


async def test_many_stripes_in_one_commit_go_in_steps(rig: Rig) -> None:
    files = [await rig.make(b"%d" % number) for number in range(6)]
    views = [
        view_of(rig.session.next_stripe(), [(file.inode, 8 * index, 4) for index in range(1000)])
        for file in files
    ]
    await rig.extents.commit(views, [FileUpdate(file.inode, 8000) for file in files])
    assert (await count_stripes(rig.engine)).total == 6
    for file in files:
        assert (await rig.names.getattr(file.inode)).allocated == 4000


async def test_a_file_grows_with_the_steps_of_its_commit(
    monkeypatch: pytest.MonkeyPatch, rig: Rig
) -> None:
    monkeypatch.setattr(committing, "PIECES_PER_STEP", 3)
    file = await rig.make(b"file")
    work = committing.Commit(
        rig.session,
        [view_of(rig.session.next_stripe(), [(file.inode, 10 * i, 10) for i in range(8)])],
        [FileUpdate(file.inode, 95, 5, 5)],
    )
    sizes = []
    while not await rig.engine.run(work.step):
        sizes.append((await rig.names.getattr(file.inode)).size)
        assert (await recount(rig.engine)).sound
        work.advance()
    assert sizes == [30, 60]
    assert (await rig.names.getattr(file.inode)).size == 95


async def test_a_file_cut_between_the_steps_of_a_commit_makes_it_fail_cleanly(
    monkeypatch: pytest.MonkeyPatch, rig: Rig
) -> None:
    monkeypatch.setattr(committing, "PIECES_PER_STEP", 3)
    file = await rig.make(b"file")
    work = committing.Commit(
        rig.session,
        [view_of(rig.session.next_stripe(), [(file.inode, 10 * i, 10) for i in range(8)])],
        [FileUpdate(file.inode, 80)],
    )
    assert not await rig.engine.run(work.step)
    work.advance()
    await rig.extents.truncate(file.inode, 0, now_ns=1)
    with pytest.raises(TransactionConflict):
        await rig.engine.run(work.step)


class Model:
    """Files as lists of origins."""

    def __init__(self) -> None:
        self.files: dict[InodeNumber, list[Origin | None]] = {}

    def write(self, stripe: StripeId, index: int, inode: InodeNumber, start: int, n: int) -> None:
        bytes_ = self.files.get(inode)
        if bytes_ is None:
            return
        bytes_.extend([None] * (start + n - len(bytes_)))
        bytes_[start : start + n] = [(stripe, index, offset) for offset in range(n)]

    def live(self) -> dict[int, int]:
        counts: dict[int, int] = {}
        for content in self.files.values():
            for origin in content:
                if origin is not None:
                    counts[origin[0]] = counts.get(origin[0], 0) + 1
        return counts


@pytest.mark.parametrize("small_steps", [False, True])
async def test_random_work_equals_a_model_of_bytes(
    monkeypatch: pytest.MonkeyPatch, small_steps: bool
) -> None:
    seed = Random().randrange(1 << 32)
    print(f"seed {seed}")
    random = Random(seed)
    if small_steps:
        monkeypatch.setattr(committing, "PIECES_PER_STEP", 3)
        monkeypatch.setattr(committing, "OLD_EXTENTS_PER_STEP", 2)
        monkeypatch.setattr(extents, "FREED_PER_STEP", 2)
    engine = MemoryEngine(conflict_probability=0.05, random=Random(seed))
    async with open_rig(engine) as rig:
        model = Model()
        born: set[int] = set()
        dropped: list[InodeNumber] = []
        for step in range(150):
            choice = random.random()
            if choice < 0.1 or not model.files:
                made = await rig.make(b"%d" % step)
                model.files[made.inode] = []
            elif choice < 0.75:
                targets = [*model.files, *dropped]
                blocks = [
                    (random.choice(targets), random.randrange(300), random.randint(1, 60))
                    for _ in range(random.randint(1, 12))
                ]
                stripe = await rig.write(*blocks)
                born.add(stripe)
                for index, (inode, start, length) in enumerate(blocks):
                    model.write(stripe, index, inode, start, length)
            elif choice < 0.9:
                inode = random.choice(list(model.files))
                size = random.randrange(400)
                await rig.extents.truncate(inode, size, now_ns=rig.tick())
                content = model.files[inode]
                del content[size:]
                content.extend([None] * (size - len(content)))
            else:
                inode = random.choice(list(model.files))
                attr = await rig.names.getattr(inode)
                (name,) = [
                    entry.name
                    for entry in await rig.names.readdir(ROOT_INODE, 0, 1000)
                    if entry.attr == attr
                ]
                held = random.choice([None, lambda _: False])
                await rig.names.unlink(ROOT_INODE, name, now_ns=1, held=held)
                await rig.extents.reap(inode)
                del model.files[inode]
                dropped.append(inode)
            result = await recount(engine)
            assert result.sound, (step, result)
            for inode, content in model.files.items():
                attr = await rig.names.getattr(inode)
                assert attr.size == len(content)
                assert attr.allocated == sum(origin is not None for origin in content)
                assert await origins(rig, inode, 0, len(content)) == content, (step, inode)
            rows = await scan_stripes(engine, None, 10_000)
            assert {row.id: row.live_bytes for row in rows} == model.live()
            buried = {stripe for stripe, _ in await tombstones(engine, 10_000)}
            assert buried == born - model.live().keys()


async def test_sparse_and_dense_rewrites_of_a_large_file_equal_a_model(rig: Rig) -> None:
    """Long runs of 4 KiB blocks far apart and close together: the read-ahead of old extents."""
    seed = Random().randrange(1 << 32)
    print(f"seed {seed}")
    random = Random(seed)
    file = await rig.make(b"file")
    pages = 4_096
    page_bytes = 4 * KIB
    model: list[Origin | None] = [None] * pages
    for turn in range(12):
        length = random.choice((1, 1, 32))
        if turn % 3 == 0:
            first = random.randrange(pages - 1024)
            chosen = list(range(first, first + 1024, length * random.choice((1, 2))))
        else:
            chosen = sorted(random.sample(range(pages - 32), random.choice((10, 200, 1000))))
        stripe = await rig.write(
            *((file.inode, page * page_bytes, length * page_bytes) for page in chosen),
            size=pages * page_bytes,
        )
        for block, page in enumerate(chosen):
            for offset in range(min(length, pages - page)):
                model[page + offset] = (stripe, block, offset * page_bytes)
        found: list[Origin | None] = [None] * pages
        for extent in await rig.extents.find(file.inode, 0, 1 << 40, limit=100_000):
            for start in range(0, extent.length, page_bytes):
                found[(extent.offset + start) // page_bytes] = (
                    extent.stripe,
                    extent.block,
                    extent.block_offset + start,
                )
        assert found == model
        assert (await recount(rig.engine)).sound
