"""The free-space map hands out each byte once and never fails for want of a contiguous hole."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from rainfs.errors import NodeFull
from rainfs.model import PAGE_BYTES
from rainfs.store.allocator import MAX_ADDRESS_BYTES, Allocator

START = 64 * PAGE_BYTES


def test_ranges_never_overlap_and_holes_always_merge() -> None:
    seed = 7
    print("seed", seed)
    random = Random(seed)
    allocator = Allocator(START, 400 * PAGE_BYTES)
    taken: dict[int, int] = {}
    for _ in range(4000):
        if random.random() < 0.55:
            length = PAGE_BYTES * random.choice((1, 1, 2, 3, 16))
            if sum(taken.values()) + length > allocator.capacity_bytes:
                with pytest.raises(NodeFull):
                    allocator.allocate(length)
            else:
                taken[allocator.allocate(length)] = length
        elif taken:
            offset = random.choice(sorted(taken))
            allocator.free(offset, taken.pop(offset))
        assert allocator.used_bytes == sum(taken.values())
    spans = sorted([*taken.items(), *allocator.holes()])
    at = START
    for offset, length in spans:
        assert offset == at
        at += length
    assert at == allocator.end
    holes = allocator.holes()
    assert all(a + n < b for (a, n), (b, _) in itertools.pairwise(holes))


def test_freeing_everything_leaves_nothing() -> None:
    allocator = Allocator(START, 1 << 30)
    ranges = [(allocator.allocate(PAGE_BYTES * n), PAGE_BYTES * n) for n in range(1, 20)]
    Random(3).shuffle(ranges)
    for offset, length in ranges:
        allocator.free(offset, length)
    assert (allocator.end, allocator.used_bytes, allocator.holes()) == (START, 0, [])


def test_the_smallest_hole_that_fits_is_taken() -> None:
    allocator = Allocator(START, 1 << 30)
    big, _, small, _ = [allocator.allocate(PAGE_BYTES * n) for n in (8, 1, 2, 1)]
    allocator.free(big, PAGE_BYTES * 8)
    allocator.free(small, PAGE_BYTES * 2)
    assert allocator.allocate(PAGE_BYTES * 2) == small
    assert allocator.allocate(PAGE_BYTES * 2) == big


def test_fragmentation_does_not_make_a_store_full() -> None:
    allocator = Allocator(START, 64 * PAGE_BYTES)
    singles = [allocator.allocate(PAGE_BYTES) for _ in range(64)]
    for offset in singles[::2]:
        allocator.free(offset, PAGE_BYTES)
    assert allocator.allocate(32 * PAGE_BYTES) == START + 64 * PAGE_BYTES
    with pytest.raises(NodeFull):
        allocator.allocate(PAGE_BYTES)


def test_loading_reports_ranges_that_cannot_be() -> None:
    allocator = Allocator(START, 1 << 30)
    good = [(START + 4 * PAGE_BYTES, 2 * PAGE_BYTES), (START, PAGE_BYTES)]
    bad = [
        (START + 5 * PAGE_BYTES, PAGE_BYTES),
        (START - PAGE_BYTES, PAGE_BYTES),
        (START + 9 * PAGE_BYTES + 1, PAGE_BYTES),
        (MAX_ADDRESS_BYTES, PAGE_BYTES),
    ]
    assert sorted(allocator.load(good + bad)) == sorted(bad)
    assert allocator.used_bytes == 3 * PAGE_BYTES
    assert allocator.holes() == [(START + PAGE_BYTES, 3 * PAGE_BYTES)]
