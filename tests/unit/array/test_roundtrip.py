"""Whatever is written comes back, over random geometry, pieces and failures."""

from __future__ import annotations

from random import Random

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from rainfs.array.array import Array, Piece, Wanted
from rainfs.model import (
    KIB,
    MIB,
    Code,
    Compression,
    InodeNumber,
    Layout,
    LayoutId,
    mirror,
    reed_solomon,
    stripe_id,
)
from tests.fakes.backend import FakeFleet
from tests.unit.array.rig import VOLUME, Rig, content, layout_of, node_rows, open_rig

CODES = [reed_solomon(k, m) for k in (1, 2, 3, 4, 7) for m in (0, 1, 2, 3)] + [
    mirror(n) for n in (1, 2, 3)
]

pytestmark = pytest.mark.usefixtures("ways_to_put")


async def one_round(seed: int, code: Code, compression: Compression) -> None:
    random = Random(seed)
    async with open_rig(code.n, seed=seed, cache_bytes=random.choice([0, 20 * KIB, MIB])) as rig:
        layout = layout_of(
            code,
            compression=compression,
            small_bytes=random.choice([0, 4 * KIB]),
            # Few enough bytes for the event loop: a mocked clock does not wait for threads.
            shard_bytes=64 * KIB // code.k // (4 * KIB) * (4 * KIB) if code.k > 4 else 16 * KIB,
        )
        # Some are away while the stripe is written, though never so many that bytes are at risk.
        for node in random.sample(rig.fleet.nodes, random.randint(0, code.m)):
            spoil(node, random)
        pieces = random_pieces(random, layout)
        view = await rig.write(pieces, layout)
        for node in rig.fleet.nodes:
            node.frozen = node.dead = False
            node.delay_s.clear()
        await rig.settle()
        losses = code.m - sum(number == 0 for number in view.placement.nodes)
        spoilt = [spoil(node, random) for node in random.sample(rig.fleet.nodes, max(0, losses))]
        whole = content(pieces)
        if random.random() < 0.5:
            rig.array.prefetch(view, range(len(pieces)), rig.refresh(view))
        for _ in range(4):
            wanted = []
            for _ in range(random.randint(1, 10)):
                block = random.randrange(len(pieces))
                offset = random.randrange(len(whole[block]))
                length = random.randint(0, len(whole[block]) - offset)
                if "flip" in spoilt:
                    # Only whole blocks have an end-to-end check; parts rely on the nodes' own.
                    offset, length = 0, len(whole[block])
                wanted.append(Wanted(block, offset, length))
            got = await rig.read(view, wanted)
            for want, data in zip(wanted, got, strict=True):
                assert bytes(data) == whole[want.block][want.offset : want.offset + want.length]
        assert await rig.read_back(view) == whole
        assert rig.array._cache.nbytes <= MIB


def spoil(node, random: Random) -> str:  # type: ignore[no-untyped-def]
    how = random.choice(["dead", "frozen", "slow", "flip", "corrupt", "drop"])
    if how == "slow":
        node.delay_s["*"] = random.choice([0.05, 0.5, 5.0])
    elif how in {"dead", "frozen"}:
        setattr(node, how, True)
    for key in list(node.shards):
        if how == "flip":
            node.flip(key, random.randrange(len(node.shards[key].payload)))
        elif how == "corrupt":
            node.corrupt(key)
        elif how == "drop":
            node.drop(key)
    return how


def random_pieces(random: Random, layout: Layout) -> list[Piece]:
    left = random.randint(1, layout.stripe_bytes)
    pieces: list[Piece] = []
    while left and len(pieces) < 40:
        length = min(left, random.choice([1, 100, 4 * KIB, 5000, layout.block_bytes]))
        data = random.randbytes(length) if random.random() < 0.6 else bytes([7]) * length
        cut = random.randint(0, length)
        pieces.append(Piece(InodeNumber(1), len(pieces) << 20, length, (data[:cut], data[cut:])))
        left -= length
    return pieces


@given(
    st.integers(0, 2**32),
    st.sampled_from(CODES),
    st.sampled_from([Compression.NONE, Compression.LZ4]),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_written_comes_back(seed: int, code: Code, compression: Compression) -> None:
    trio.run(one_round, seed, code, compression, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.LZ4])
async def test_full_size_stripes_through_worker_threads(compression: Compression) -> None:
    """Several at once, with real sizes and pooled buffers, on the real clock."""
    seed = 5
    print("seed", seed)
    random = Random(seed)
    layout = Layout(LayoutId(1), reed_solomon(4, 2), compression)
    noise = random.randbytes(5 * MIB)
    fleet = FakeFleet(6, volume=VOLUME)
    async with trio.open_nursery() as nursery:
        array = Array(VOLUME, nursery, random=random, open_backend=fleet.open_backend)
        await array.set_nodes(node_rows(fleet))
        await array.start()
        rig = Rig(array, fleet, random)

        async def one(number: int) -> None:
            start = random.randrange(MIB)
            data = noise[start : start + 4 * MIB]
            if number % 2:
                data = data[:100] * (4 * MIB // 100)
            step = layout.block_bytes
            view_of = memoryview(data)
            pieces = [
                Piece(InodeNumber(number), at, len(part), (part,))
                for at in range(0, len(data), step)
                if (part := view_of[at : at + step])
            ]
            view = await array.write(stripe_id(2, number), pieces, layout)
            rig.rows[view.id] = view
            array.forget(view.id)
            array.prefetch(view, range(len(pieces)), rig.refresh(view))
            assert b"".join(await rig.read_back(view)) == data

        async with trio.open_nursery() as writers:
            for number in range(8):
                writers.start_soon(one, number)
        fleet[1].dead = fleet[4].dead = True
        async with trio.open_nursery() as writers:
            for number in range(8, 12):
                writers.start_soon(one, number)
        await array.aclose()
