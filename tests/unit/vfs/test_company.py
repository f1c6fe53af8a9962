"""Which small files are fetched along with those that are read."""

from __future__ import annotations

from rainfs.model import (
    Block,
    Compression,
    InodeNumber,
    LayoutId,
    Placement,
    Stripe,
    StripeId,
    StripeView,
    reed_solomon,
)
from rainfs.vfs.company import HITS, MAX_REMEMBERED, RECENT_S, Company


def view_of(number: int = 1, *, inodes: int = 40, length: int = 4096) -> StripeView:
    blocks = tuple(
        Block(InodeNumber(i + 1), 0, length, i % 4, i // 4 * length, length, Compression.NONE, 0)
        for i in range(inodes)
    )
    stripe = Stripe(reed_solomon(4, 2), 1 << 20, blocks, LayoutId(1))
    return StripeView(StripeId(number), stripe, Placement(()))


def test_several_files_of_one_shard_bring_the_others_along_once() -> None:
    company, view = Company(), view_of()
    for hit in range(HITS - 1):
        assert company.note(view, 4 * hit, 0.0) == []
    proposed = company.note(view, 4 * (HITS - 1), 0.1)
    assert set(proposed) == {i for i in range(0, 40, 4) if i != 4 * (HITS - 1)}
    assert company.note(view, 20, 0.2) == []


def test_one_file_read_often_brings_nothing_along() -> None:
    company, view = Company(), view_of()
    assert not any(company.note(view, 0, 0.01 * hit) for hit in range(50))


def test_reads_far_apart_are_no_company() -> None:
    company, view = Company(), view_of()
    assert not any(company.note(view, 4 * hit, hit * 2 * RECENT_S) for hit in range(10))


def test_large_blocks_are_no_small_files() -> None:
    company, view = Company(), view_of(length=128 * 1024)
    assert not any(company.note(view, 4 * hit, 0.0) for hit in range(10))


def test_the_memory_of_reads_is_bounded() -> None:
    company = Company()
    for number in range(2 * MAX_REMEMBERED):
        company.note(view_of(number), 0, 0.0)
    assert len(company._seen) <= MAX_REMEMBERED
