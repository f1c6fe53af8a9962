"""Where the blocks of a stripe lie in its data shards, and how many data shards it should have.

Owns the layout of blocks inside shards.  Refuses to know what the blocks hold.  Pure.

Invariants: blocks lie in the order given, shard after shard; none crosses a shard; none overlap;
all shards of a stripe are equally long, a multiple of PAGE_BYTES and at most MAX_SHARD_BYTES.
A block marked `paged` starts on a page where that costs at most an eighth of its length, so that a
small read inside it touches as few pages as it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rainfs.errors import InputError
from rainfs.model import MAX_SHARD_BYTES, PAGE_BYTES

PAD_DIVISOR = 8
"""Padding in front of a paged block may take this fraction of its length."""


class Item(NamedTuple):
    """A block as the packer sees it."""

    stored: int
    """Bytes it takes."""
    paged: bool
    """Whether it should start on a page."""


class Position(NamedTuple):
    """Where a block lies."""

    shard: int
    offset: int


@dataclass(frozen=True, slots=True)
class Packing:
    """The outcome: `positions[i]` is block i's place among `k` shards of `shard_bytes`."""

    k: int
    shard_bytes: int
    positions: tuple[Position, ...]


def pages_up(nbytes: int) -> int:
    """Round up to whole pages."""
    return -(-nbytes // PAGE_BYTES) * PAGE_BYTES


def fill(items: Sequence[Item], k: int, shard_bytes: int) -> list[Position] | None:
    """Place `items` in order into `k` shards of `shard_bytes`, or return None if they overflow."""
    positions: list[Position] = []
    shard = 0
    at = 0
    for stored, paged in items:
        start = at
        if paged:
            pad = -at % PAGE_BYTES
            if pad * PAD_DIVISOR <= stored:
                start += pad
        if start + stored > shard_bytes:
            shard += 1
            start = 0
            if shard == k or stored > shard_bytes:
                return None
        positions.append(Position(shard, start))
        at = start + stored
    return positions


def pack_into(items: Sequence[Item], k: int) -> Packing | None:
    """Pack into exactly `k` shards as short as possible; None beyond MAX_SHARD_BYTES."""
    total = sum(item.stored for item in items)
    longest = max(item.stored for item in items)
    low = pages_up(max(longest, -(-total // k)))
    if low > MAX_SHARD_BYTES:
        return None
    best = fill(items, k, low)
    if best is not None:
        return Packing(k, low, tuple(best))
    # Double the step until the blocks fit, then halve the interval: it is short in practice.
    step = PAGE_BYTES
    high = low
    while best is None:
        low = high
        if high == MAX_SHARD_BYTES:
            return None
        high = min(high + step, MAX_SHARD_BYTES)
        step *= 2
        best = fill(items, k, high)
    while high - low > PAGE_BYTES:
        middle = low + (high - low) // (2 * PAGE_BYTES) * PAGE_BYTES
        found = fill(items, k, middle)
        if found is None:
            low = middle
        else:
            high, best = middle, found
    return Packing(k, high, tuple(best))


def pack(items: Sequence[Item], k_most: int, m: int, full_shard_bytes: int) -> Packing:
    """Pack into the number of data shards, up to `k_most`, that takes the least room on nodes.

    A stripe at least half full keeps `k_most`; with less, a geometry of fewer, longer shards can
    cost less than one of many short ones (one block and 4+2: three copies instead of six shards).

    Raises: InputError when no geometry takes the blocks, or there are none.
    """
    if not items:
        raise InputError("a stripe of no blocks")
    total = sum(item.stored for item in items)
    best: Packing | None = None
    for k in range(min(k_most, len(items)), 0, -1):
        packing = pack_into(items, k)
        if packing is None and k == 1:
            # Alignment may be what pushes a lone shard beyond its limit: do without.
            packing = pack_into([item._replace(paged=False) for item in items], k)
        if packing is None:
            continue
        if best is None or (k + m) * packing.shard_bytes < (best.k + m) * best.shard_bytes:
            best = packing
        if k == k_most and total * 2 >= k * full_shard_bytes:
            break
    if best is None:
        raise InputError(f"{total} bytes do not fit {k_most} shards of {MAX_SHARD_BYTES} bytes")
    return best
