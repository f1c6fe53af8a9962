"""Counting live bytes and `allocated` anew from the extents, to hold the kept figures against.

Owns no rows.  Meant for a volume at rest: pages are snapshots of their own.
"""

from __future__ import annotations

from typing import NamedTuple

from rainfs.meta import keys
from rainfs.meta.engine import Engine
from rainfs.meta.records import ATTRS, EXTENTS, STATES
from rainfs.meta.tables import scan_table
from rainfs.model import InodeNumber, StripeId


class Miscount(NamedTuple):
    """A figure that is not what its extents say."""

    kept: int | None
    """None if the row is not there."""
    counted: int


class Recount(NamedTuple):
    """What does not fit; all empty on a sound volume."""

    live_bytes: dict[StripeId, Miscount]
    allocated: dict[InodeNumber, Miscount]
    overlaps: list[tuple[InodeNumber, int]]
    """Extents (inode, offset) that begin before the one in front of them ends."""
    beyond_end: list[tuple[InodeNumber, int]]
    """Extents that reach beyond their file's size."""

    @property
    def sound(self) -> bool:
        """Whether everything fits."""
        return not any(self)


async def recount(engine: Engine) -> Recount:
    """Compare every stripe's live bytes and every file's allocation with the extents."""
    live: dict[StripeId, int] = {}
    allocated: dict[InodeNumber, int] = {}
    ends: dict[InodeNumber, int] = {}
    overlaps: list[tuple[InodeNumber, int]] = []
    async for key, raw in scan_table(engine, b"E"):
        inode, offset = InodeNumber(keys.number_of(key)), keys.second_of(key)
        extent = EXTENTS.decode(raw)
        live[extent.stripe] = live.get(extent.stripe, 0) + extent.length
        allocated[inode] = allocated.get(inode, 0) + extent.length
        if offset < ends.get(inode, 0):
            overlaps.append((inode, offset))
        ends[inode] = offset + extent.length
    bad_live: dict[StripeId, Miscount] = {}
    async for key, raw in scan_table(engine, b"P"):
        stripe = StripeId(keys.number_of(key))
        counted = live.pop(stripe, 0)
        kept = STATES.decode(raw).live_bytes
        if kept != counted or counted == 0:
            bad_live[stripe] = Miscount(kept, counted)
    bad_live.update({stripe: Miscount(None, counted) for stripe, counted in live.items()})
    bad_allocated: dict[InodeNumber, Miscount] = {}
    beyond_end: list[tuple[InodeNumber, int]] = []
    async for _, raw in scan_table(engine, b"I"):
        attr = ATTRS.decode(raw)
        counted = allocated.pop(attr.inode, 0)
        if attr.allocated != counted:
            bad_allocated[attr.inode] = Miscount(attr.allocated, counted)
        if ends.get(attr.inode, 0) > attr.size:
            beyond_end.append((attr.inode, ends[attr.inode]))
    bad_allocated.update({inode: Miscount(None, counted) for inode, counted in allocated.items()})
    return Recount(bad_live, bad_allocated, overlaps, beyond_end)
