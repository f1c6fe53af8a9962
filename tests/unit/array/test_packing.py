"""Blocks in shards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rainfs.array.packing import PAD_DIVISOR, Item, fill, pack, pack_into
from rainfs.errors import InputError
from rainfs.model import DEFAULT_BLOCK_BYTES, KIB, MAX_SHARD_BYTES, MIB, PAGE_BYTES

ITEMS = st.lists(st.builds(Item, st.integers(1, 128 * KIB), st.booleans()), min_size=1, max_size=60)


@given(ITEMS, st.integers(1, 12), st.integers(0, 3))
def test_blocks_keep_order_never_cross_a_shard_and_never_overlap(
    items: list[Item], k: int, m: int
) -> None:
    try:
        packing = pack(items, k, m, MIB)
    except InputError:
        assert sum(item.stored for item in items) > (k - 1) * (MAX_SHARD_BYTES - 128 * KIB)
        return
    assert 1 <= packing.k <= k
    assert packing.shard_bytes % PAGE_BYTES == 0
    assert packing.shard_bytes <= MAX_SHARD_BYTES
    at = (0, 0)
    for item, (shard, offset) in zip(items, packing.positions, strict=True):
        assert (shard, offset) >= at
        assert shard < packing.k
        assert offset + item.stored <= packing.shard_bytes
        at = (shard, offset + item.stored)


@given(ITEMS, st.integers(1, 8))
def test_a_page_less_would_not_do(items: list[Item], k: int) -> None:
    packing = pack_into(items, k)
    if packing is not None and packing.shard_bytes > PAGE_BYTES:
        assert fill(items, k, packing.shard_bytes - PAGE_BYTES) is None


def test_a_full_stripe_of_equal_blocks_is_perfectly_balanced() -> None:
    packing = pack([Item(DEFAULT_BLOCK_BYTES, True)] * 32, 4, 2, MIB)
    assert (packing.k, packing.shard_bytes) == (4, MIB)
    assert [shard for shard, _ in packing.positions] == [i // 8 for i in range(32)]


def test_one_block_becomes_a_mirror_rather_than_six_shards() -> None:
    assert pack([Item(DEFAULT_BLOCK_BYTES, True)], 4, 2, MIB).k == 1


def test_two_blocks_take_two_data_shards() -> None:
    assert pack([Item(DEFAULT_BLOCK_BYTES, True)] * 2, 4, 2, MIB).k == 2


@given(st.lists(st.integers(PAGE_BYTES, 64 * KIB), min_size=1, max_size=60))
def test_alignment_costs_at_most_an_eighth(lengths: list[int]) -> None:
    positions = fill([Item(length, True) for length in lengths], 1, 1 << 40)
    assert positions is not None
    end = positions[-1].offset + lengths[-1]
    assert end <= sum(lengths) * (1 + 1 / PAD_DIVISOR)
    for length, (_, offset) in zip(lengths, positions, strict=True):
        if length >= PAD_DIVISOR * PAGE_BYTES:
            assert offset % PAGE_BYTES == 0


def test_a_lone_shard_at_its_limit_does_without_alignment() -> None:
    items = [Item(33 * KIB, True)] * (MAX_SHARD_BYTES // (33 * KIB))
    packing = pack(items, 1, 2, MIB)
    assert packing.shard_bytes <= MAX_SHARD_BYTES


def test_too_much_for_so_few_shards_is_refused() -> None:
    with pytest.raises(InputError):
        pack([Item(MIB, True)] * 5, 1, 2, MIB)
