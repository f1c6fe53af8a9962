"""How many file bytes a set of nodes can take.

Owns the arithmetic of usable space for shards on distinct nodes.  Refuses to know where the
figures come from.  Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rainfs.array.values import Space
from rainfs.model import Code, CodeKind


@dataclass(frozen=True, slots=True)
class Room:
    """One living node's figures."""

    capacity_bytes: int
    used_bytes: int
    free_bytes: int
    """What new shards may still take: 0 on a node that takes none."""


def distinct_rows(rooms: Sequence[int], width: int) -> int:
    """Return the longest x such that rows of x bytes on `width` distinct nodes each fit.

    It is the largest x with sum(min(room, x)) >= width * x: the largest rooms are cut to x, and
    what the others hold must fill the remaining columns.
    """
    if width < 1 or len(rooms) < width:
        return 0
    ordered = sorted(rooms)
    left = sum(ordered)
    best = left // width
    for cut in range(1, width):
        left -= ordered[-cut]
        best = min(best, left // (width - cut))
    return best


def living_code(code: Code, living: int) -> tuple[int, int]:
    """Return (k, n) of the geometry that a full stripe takes with `living` nodes."""
    if living <= code.m:
        return 1, max(living, 1)
    if code.kind is CodeKind.MIRROR:
        return 1, code.n
    k = min(code.k, living - code.m)
    return k, k + code.m


def file_bytes(rooms: Sequence[int], code: Code) -> int:
    """Return the file bytes that fit, by the width of stripes that makes the most of the rooms.

    Nodes much smaller than the others are better left out of stripes, which the writer does as
    soon as they are full; but a stripe is never narrower than full redundancy asks for, unless
    there are no more nodes.
    """
    widest = living_code(code, len(rooms))[1]
    narrowest = min(code.m + 1, widest)
    return max(
        living_code(code, width)[0] * distinct_rows(rooms, width)
        for width in range(narrowest, widest + 1)
    )


def space_of(rooms: Sequence[Room], code: Code) -> Space:
    """Return the space of living nodes, as files coded with `code` (or narrower) will see it."""
    k, n = living_code(code, len(rooms))
    raw = sum(room.capacity_bytes for room in rooms)
    used_raw = sum(room.used_bytes for room in rooms)
    usable = file_bytes([room.capacity_bytes for room in rooms], code)
    free = 0
    # Where too few nodes have room, new stripes would lose redundancy: that is a full array.
    takers = [room.free_bytes for room in rooms if room.free_bytes > 0]
    if len(takers) > code.m or len(takers) == len(rooms):
        free = min(usable, file_bytes(takers, code))
    return Space(
        raw_bytes=raw,
        used_raw_bytes=used_raw,
        usable_bytes=usable,
        used_bytes=min(used_raw * k // n, usable - free),
        free_bytes=free,
    )
