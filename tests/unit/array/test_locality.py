"""Small files that were written together come together."""

from __future__ import annotations

from trio.testing import MockClock

from rainfs.array.array import Wanted
from rainfs.array.locality import (
    ALLOWANCE_BLOCKS,
    MISSES_TO_BEGIN,
    TRACKED_STRIPES,
    WINDOW_BYTES,
    Locality,
)
from rainfs.model import (
    KIB,
    MIB,
    Block,
    Compression,
    InodeNumber,
    LayoutId,
    NodeNumber,
    Placement,
    Stripe,
    StripeId,
    StripeView,
    reed_solomon,
)
from tests.unit.array.rig import content, layout_of, open_rig


def view_of(
    number: int, *, shards: int = 4, blocks: int = 256, length: int = 4 * KIB
) -> StripeView:
    table = tuple(
        Block(InodeNumber(i), 0, length, s, b * length, length, Compression.NONE, 0)
        for i, (s, b) in enumerate((s, b) for s in range(shards) for b in range(blocks))
    )
    stripe = Stripe(reed_solomon(4, 2), blocks * length, table, LayoutId(1))
    return StripeView(StripeId(number), stripe, Placement((NodeNumber(1),) * 6))


def test_the_first_misses_guess_nothing_then_a_window_of_the_shard() -> None:
    locality = Locality()
    view = view_of(1)
    for number in range(MISSES_TO_BEGIN - 1):
        assert locality.missed(view, number) == []
    assert locality.missed(view, 10) == list(range(10, 10 + WINDOW_BYTES // (4 * KIB)))
    assert locality.missed(view, 250) == list(range(250, 256))
    assert locality.missed(view, 255) == []


def test_guesses_that_never_hit_stop_and_hits_bring_them_back() -> None:
    locality = Locality()
    view = view_of(1)
    guessed = sum(len(locality.missed(view, 0)) for _ in range(200))
    assert guessed <= ALLOWANCE_BLOCKS + WINDOW_BYTES // (4 * KIB) * 4
    for _ in range(100):
        locality.hit()
    assert locality.missed(view, 0)


def test_few_stripes_are_remembered() -> None:
    locality = Locality()
    views = [view_of(i, blocks=2) for i in range(TRACKED_STRIPES + 1)]
    for _ in range(MISSES_TO_BEGIN + 1):
        assert not any(locality.missed(view, 0) for view in views)


async def test_reading_many_small_files_takes_few_calls(autojump_clock: MockClock) -> None:
    async with open_rig(cache_bytes=MIB) as rig:
        layout = layout_of(shard_bytes=128 * KIB, block_bytes=128 * KIB, small_bytes=0)
        pieces = rig.pieces([4 * KIB] * 64 + [3000] * 32)
        view = await rig.write(pieces, layout)
        whole = content(pieces)
        order = [i for start in range(10) for i in range(start, len(pieces), 10)]
        for i in order:
            (data,) = await rig.read(view, [Wanted(i, 0, len(whole[i]))])
            assert bytes(data) == whole[i]
        assert sum(len(node.calls("get")) for node in rig.fleet.nodes) < 24
